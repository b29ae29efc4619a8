//! ONNX Runtime: one environment per process, one session per segment.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::ep::ExecutionProviderDispatch;
use ort::session::{Session, SessionInputValue};
use ort::value::TensorRef;

use crate::bundle::Bundle;
use crate::contract::Segment;
use crate::engine::{EngineError, EngineOptions, Provider, SegmentInput, SegmentOutput, library, provider};
use crate::inputs::PATCH;

/// The environment lives as long as the process: `ort` allows one, and drops it with the last handle.
static PROCESS: Mutex<Option<Process>> = Mutex::new(None);

struct Process {
    environment: Environment,
    library: PathBuf,
    threads: usize,
    /// What computes: chosen at the start, the CPU once the device has failed.
    provider: Provider,
}

/// The sessions of a bundle. `ort` runs a session by `&mut`, hence the locks; a segment runs for about a
/// millisecond, and a gateway infers one sample at a time.
pub(crate) struct Sessions {
    segments: Vec<Mutex<SegmentSession>>,
    provider: Provider,
}

struct SegmentSession {
    session: Session,
    file: String,
    inputs: Vec<String>,
    hidden: Option<String>,
    pooled: String,
}

/// What a panic inside a run leaves behind is still a session: its state is ONNX Runtime's, not ours.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed<R>(file: &str, doing: &'static str) -> impl Fn(ort::Error<R>) -> EngineError {
    move |error| EngineError::Engine { file: file.into(), doing, what: error.to_string() }
}

impl Sessions {
    pub(crate) fn load(bundle: &Bundle, options: &EngineOptions) -> Result<Self, EngineError> {
        let (environment, provider) = environment(options)?;
        let load = |provider| {
            let sessions = bundle.segments().iter().map(|segment| {
                let bytes = bundle.read(&segment.file)?;
                let chain = provider::chain(provider, options.engines.as_deref());
                Ok(Mutex::new(SegmentSession::load(&environment, segment, &bytes, &chain)?))
            });
            Ok(Self { segments: sessions.collect::<Result<_, EngineError>>()?, provider })
        };
        match load(provider) {
            // The library was built for the GPU, and the device lacks it or one of its libraries.
            Err(EngineError::Engine { doing, what, .. }) if provider != Provider::Cpu => {
                tracing::warn!(
                    provider = provider.as_str(),
                    doing,
                    what,
                    "this device cannot: the CPU computes"
                );
                if let Some(process) = &mut *lock(&PROCESS) {
                    process.provider = Provider::Cpu;
                }
                load(Provider::Cpu)
            }
            loaded => loaded,
        }
    }

    pub(crate) fn provider(&self) -> Provider {
        self.provider
    }

    pub(crate) fn run(&self, index: usize, input: &SegmentInput<'_>) -> Result<SegmentOutput, EngineError> {
        lock(&self.segments[index]).run(input)
    }
}

fn environment(options: &EngineOptions) -> Result<(Environment, Provider), EngineError> {
    let threads = options.threads.max(1);
    let mut process = lock(&PROCESS);
    if let Some(running) = &*process {
        if let Some(asked) = options.library.as_ref().filter(|&asked| *asked != running.library) {
            return Err(EngineError::OneLibrary { loaded: running.library.clone(), asked: asked.clone() });
        }
        if threads != running.threads {
            tracing::warn!(
                asked = threads,
                running = running.threads,
                "the process keeps its first thread pool"
            );
        }
        return Ok((running.environment.clone(), running.provider));
    }

    let probed = library::find(options.library.as_deref())?;
    let engine = probed.path.display().to_string();
    let mut builder = ort::init_from(&probed.path).map_err(|error| EngineError::LibraryForeign {
        path: probed.path.clone(),
        what: error.to_string(),
    })?;
    // One pool for all sessions: private pools spin against each other. Without spinning, idle threads cost
    // nothing between samples; with one thread everything runs on the caller's.
    let pool = GlobalThreadPoolOptions::default()
        .with_intra_threads(threads)
        .and_then(|pool| pool.with_inter_threads(1))
        .and_then(|pool| pool.with_spin_control(false))
        .map_err(failed(&engine, "making the thread pool"))?;
    builder = builder.with_name("loadonce").with_telemetry(false).with_global_thread_pool(pool);
    let environment = builder.build().map_err(failed(&engine, "starting"))?;
    // Its warnings are about devices it did not find; errors come back as errors.
    environment.set_log_level(ort::logging::LogLevel::Error);
    let provider = provider::choose(options.provider, provider::offered);
    tracing::info!(
        library = engine,
        version = probed.version,
        threads,
        provider = provider.as_str(),
        "ONNX Runtime started"
    );
    if ![provider, Provider::Auto].contains(&options.provider) {
        tracing::warn!(
            asked = options.provider.as_str(),
            library = engine,
            "this library was built without the provider asked for: the CPU computes"
        );
    }
    *process = Some(Process { environment: environment.clone(), library: probed.path, threads, provider });
    Ok((environment, provider))
}

impl SegmentSession {
    fn load(
        environment: &Environment,
        segment: &Segment,
        bytes: &[u8],
        providers: &[ExecutionProviderDispatch],
    ) -> Result<Self, EngineError> {
        let file = &segment.file;
        let session = Session::builder(environment)
            .map_err(failed(file, "making a session"))?
            .with_execution_providers(providers)
            .map_err(failed(file, "choosing the processor"))?
            .with_memory_pattern(false)
            .map_err(failed(file, "configuring memory"))?
            .commit_from_memory(bytes)
            .map_err(failed(file, "loading"))?;
        let own = Self {
            session,
            file: file.clone(),
            inputs: segment.inputs.clone(),
            hidden: segment.hidden.clone(),
            pooled: segment.pooled.clone(),
        };
        let takes = own.session.inputs().iter().map(ort::value::Outlet::name);
        if !takes.eq(own.inputs.iter()) {
            return Err(own.wrong(format!("its inputs are not {:?} in this order", own.inputs)));
        }
        for output in own.hidden.iter().chain([&own.pooled]) {
            if !own.session.outputs().iter().any(|outlet| outlet.name() == output) {
                return Err(own.wrong(format!("it has no output {output}")));
            }
        }
        Ok(own)
    }

    fn wrong(&self, what: String) -> EngineError {
        EngineError::Engine { file: self.file.clone(), doing: "comparing with backbone.toml", what }
    }

    fn run(&mut self, input: &SegmentInput<'_>) -> Result<SegmentOutput, EngineError> {
        let Self { session, file, inputs, hidden, pooled } = self;
        let bad_input = failed(file, "passing the input");
        let values: Vec<SessionInputValue<'_>> = match *input {
            SegmentInput::Patches { patches, token_ids } => vec![
                TensorRef::from_array_view(([1, token_ids.len(), PATCH], patches))
                    .map_err(&bad_input)?
                    .into(),
                TensorRef::from_array_view(([token_ids.len()], token_ids)).map_err(&bad_input)?.into(),
            ],
            SegmentInput::Tokens { token_ids } => {
                vec![TensorRef::from_array_view(([token_ids.len()], token_ids)).map_err(&bad_input)?.into()]
            }
            SegmentInput::Hidden { hidden, tokens } => {
                let shape = [1, tokens, hidden.len() / tokens];
                vec![TensorRef::from_array_view((shape, hidden)).map_err(&bad_input)?.into()]
            }
        };
        let named: Vec<_> = inputs.iter().map(String::as_str).zip(values).collect();
        let outputs = session.run(named).map_err(failed(file, "running"))?;
        let numbers = |name: &str| -> Result<Vec<f32>, EngineError> {
            let bad_output = failed(file, "reading an output");
            Ok(outputs[name].try_extract_tensor::<f32>().map_err(bad_output)?.1.to_vec())
        };
        Ok(SegmentOutput {
            hidden: hidden.as_deref().map(numbers).transpose()?.unwrap_or_default(),
            pooled: numbers(pooled)?,
        })
    }
}
