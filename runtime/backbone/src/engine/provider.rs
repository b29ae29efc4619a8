//! Which processor computes the segments: the CPU, or an NVIDIA GPU where the device's own library offers it.

use std::path::Path;

use ort::ep::{self, ExecutionProvider, ExecutionProviderDispatch};

use super::Provider;

/// What the loaded library was built with. That the device can do it shows only when a session is made.
pub(super) fn offered(provider: Provider) -> bool {
    match provider {
        Provider::Cpu | Provider::Auto => true,
        Provider::Cuda => ep::CUDA::is_available().unwrap_or(false),
        Provider::TensorRt => ep::TensorRT::is_available().unwrap_or(false),
    }
}

/// The provider to try for the one `asked` for: never [`Provider::Auto`].
///
/// `auto` means CUDA where it is offered. TensorRT has to be asked for, because it compiles every segment for minutes.
pub(super) fn choose(asked: Provider, offered: impl Fn(Provider) -> bool) -> Provider {
    let wanted = if asked == Provider::Auto { Provider::Cuda } else { asked };
    if offered(wanted) { wanted } else { Provider::Cpu }
}

/// The providers of one session, in the order in which they take what they can compute. `engines` is where TensorRT
/// keeps what it compiled.
pub(super) fn chain(provider: Provider, engines: Option<&Path>) -> Vec<ExecutionProviderDispatch> {
    let mut chain = Vec::new();
    if provider == Provider::TensorRt {
        let mut tensorrt = ep::TensorRT::default();
        if let Some(folder) = engines {
            let folder = folder.display();
            tensorrt = tensorrt.with_engine_cache(true).with_engine_cache_path(folder);
        }
        chain.push(tensorrt.build().error_on_failure());
    }
    // What TensorRT cannot compile stays on the GPU where that goes.
    if provider == Provider::Cuda || provider == Provider::TensorRt && offered(Provider::Cuda) {
        chain.push(ep::CUDA::default().build().error_on_failure());
    }
    // The arena costs sense-tiny 1 MiB more and makes nothing faster; the memory pattern changes neither.
    chain.push(ep::CPU::default().with_arena_allocator(false).build().error_on_failure());
    chain
}

#[cfg(test)]
mod tests {
    use super::*;
    use Provider::{Auto, Cpu, Cuda, TensorRt};

    #[test]
    fn a_provider_is_taken_only_where_it_is_offered() {
        let cpu_only = |provider| provider == Cpu;
        let cuda = |provider| matches!(provider, Cpu | Cuda);
        let all = |provider| provider != Auto;
        for (asked, with_cpu, with_cuda, with_all) in [
            (Cpu, Cpu, Cpu, Cpu),
            (Auto, Cpu, Cuda, Cuda),
            (Cuda, Cpu, Cuda, Cuda),
            (TensorRt, Cpu, Cpu, TensorRt),
        ] {
            assert_eq!(choose(asked, cpu_only), with_cpu, "{asked:?}");
            assert_eq!(choose(asked, cuda), with_cuda, "{asked:?}");
            assert_eq!(choose(asked, all), with_all, "{asked:?}");
        }
    }
}
