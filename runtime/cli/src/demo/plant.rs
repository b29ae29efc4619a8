//! The plant: cameras, sensors and people, as seen on the data plane. Publishes samples and labels, reads
//! predictions.

use super::error::DemoError;
use loadonce_control::{Prediction, Problem};
use loadonce_link::tls::{Tls, TlsFiles};
use loadonce_link::{Backoff, Event, Link, LinkConfig, LinkHandle, Qos};
use loadonce_wire::Topic;
use loadonce_wire::limits::{MAX_SAMPLE, MAX_TOPIC, packet_bytes};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Receiver;

/// Samples of one gateway that are on their way at most. A line waits for its answers; and an agent stores what
/// it saw when it has a moment, which a stream without a gap never gives it.
const WINDOW: usize = 1;
/// Publishes that may wait for the broker: more than [`WINDOW`] for every gateway and than all labels, so that
/// publishing never waits while answers are not read.
const QUEUE: usize = 2048;
/// How long the broker may take to accept the first connection.
const CONNECT: Duration = Duration::from_secs(15);
/// Longest pause between looks at the fleet.
const TICK: Duration = Duration::from_millis(250);

/// A sample to send.
#[derive(Debug, Clone)]
pub(crate) struct Shipment {
    /// Index of the task.
    pub(crate) task: usize,
    /// Index in the task's data.
    pub(crate) sample: usize,
    /// Sample id: a level of the topic.
    pub(crate) id: String,
}

/// A sample with its answer.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    /// Index of the gateway.
    pub(crate) gateway: usize,
    /// What was sent.
    pub(crate) shipment: Shipment,
    /// What came back.
    pub(crate) prediction: Prediction,
}

/// Why an exchange stopped.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// A gateway answered a sample with a problem: gateway, sample, the problem.
    Refused(usize, String, String),
    /// No answer came for the whole patience; this gateway misses the most.
    Silent(usize, usize),
    /// Anything else.
    Error(DemoError),
}

/// The plant's connection.
#[derive(Debug)]
pub(crate) struct Plant {
    handle: LinkHandle,
    events: Receiver<Event>,
    site: String,
    gateways: Vec<String>,
    tasks: Vec<String>,
    broker: String,
    problems: (usize, Option<(String, String)>),
}

impl Plant {
    /// Connects to `broker` and subscribes to the predictions of these gateways and tasks.
    pub(crate) async fn connect(
        broker: &str,
        tls: Option<TlsFiles>,
        site: &str,
        gateways: Vec<String>,
        tasks: Vec<String>,
    ) -> Result<Self, DemoError> {
        let problem = |what: String| DemoError::Broker { broker: broker.to_owned(), what };
        let largest = packet_bytes(MAX_TOPIC, MAX_SAMPLE);
        // A broker ends the older of two connections with one name, and two people may feed at once.
        let name = format!("{site}.plant.{:016x}", RandomState::new().build_hasher().finish());
        let mut config = LinkConfig::new(broker, &name, largest).map_err(|e| problem(e.to_string()))?;
        config.tls = tls.map(Tls::new);
        let answers = Topic::Out { gateway: only(&gateways), task: only(&tasks), sample: "+" }.text(site);
        config.subscriptions.push((answers.as_str().to_owned(), Qos::AtLeastOnce));
        config.queue_messages = QUEUE;
        config.backoff = Backoff { base: Duration::from_millis(200), cap: Duration::from_secs(2) };
        let (handle, events) = Link::start(config).map_err(|e| problem(e.to_string()))?;
        let (site, broker) = (site.to_owned(), broker.to_owned());
        let mut plant = Self { handle, events, site, gateways, tasks, broker, problems: (0, None) };
        let deadline = Instant::now() + CONNECT;
        let mut reason = "no answer".to_owned();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, plant.events.recv()).await {
                Ok(Some(Event::Connected { .. })) => return Ok(plant),
                Ok(Some(Event::Disconnected { reason: why, .. })) => reason = why,
                Ok(Some(Event::SubscriptionRefused { topic })) => {
                    reason = format!("subscription to {topic} refused");
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return Err(plant.problem(reason)),
            }
        }
    }

    fn problem(&self, what: String) -> DemoError {
        DemoError::Broker { broker: self.broker.clone(), what }
    }

    /// Sends every gateway its queue, at most [`WINDOW`] ahead of the answers, until all are answered. `look` is
    /// called several times a second with the number of answers so far; its error ends the exchange.
    pub(crate) async fn exchange(
        &mut self,
        mut queues: Vec<VecDeque<Shipment>>,
        payload: impl Fn(&Shipment) -> Vec<u8>,
        patience: Duration,
        mut look: impl FnMut(usize) -> Result<(), DemoError>,
    ) -> Result<Vec<Answered>, Stopped> {
        let mut waiting: Vec<HashMap<(usize, String), Shipment>> = vec![HashMap::new(); queues.len()];
        let mut answered = Vec::with_capacity(queues.iter().map(VecDeque::len).sum());
        let mut last_answer = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        loop {
            for (gateway, queue) in queues.iter_mut().enumerate() {
                while waiting[gateway].len() < WINDOW
                    && let Some(shipment) = queue.pop_front()
                {
                    self.send(gateway, &shipment, payload(&shipment)).await.map_err(Stopped::Error)?;
                    waiting[gateway].insert((shipment.task, shipment.id.clone()), shipment);
                }
            }
            if waiting.iter().all(HashMap::is_empty) {
                return Ok(answered);
            }
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(Event::Message { topic, payload, .. }) => {
                        let Some((gateway, key)) = self.locate(&topic) else { continue };
                        let Some(shipment) = waiting[gateway].remove(&key) else {
                            self.unasked(key.1, &payload);
                            continue;
                        };
                        let prediction = serde_json::from_slice::<Prediction>(&payload).map_err(|_| {
                            let what = serde_json::from_slice::<Problem>(&payload)
                                .map_or_else(|e| format!("unreadable answer: {e}"), |problem| problem.message);
                            Stopped::Refused(gateway, shipment.id.clone(), what)
                        })?;
                        answered.push(Answered { gateway, shipment, prediction });
                        last_answer = Instant::now();
                    }
                    // Whatever was on its way is sent again: a gateway takes the same sample id once.
                    Some(Event::Connected { .. }) => {
                        for (queue, waiting) in queues.iter_mut().zip(&mut waiting) {
                            for (_, shipment) in waiting.drain() {
                                queue.push_front(shipment);
                            }
                        }
                    }
                    Some(_) => {}
                    None => return Err(Stopped::Error(self.problem("the connection ended".into()))),
                },
                _ = ticks.tick() => {
                    look(answered.len()).map_err(Stopped::Error)?;
                    if last_answer.elapsed() > patience {
                        let behind = (0..queues.len()).max_by_key(|&g| waiting[g].len() + queues[g].len());
                        let gateway = behind.unwrap_or(0);
                        return Err(Stopped::Silent(gateway, waiting[gateway].len() + queues[gateway].len()));
                    }
                }
            }
        }
    }

    /// Whatever came back without a sample waiting for it: the refusal of a label, or nothing new.
    fn unasked(&mut self, id: String, payload: &[u8]) {
        if let Ok(problem) = serde_json::from_slice::<Problem>(payload) {
            self.refused(id, problem.message);
        }
    }

    /// Counts the refusal of a label.
    pub(crate) fn refused(&mut self, id: String, what: String) {
        self.problems.0 += 1;
        self.problems.1.get_or_insert((id, what));
    }

    /// How many labels were refused, and the first of them: its sample and why.
    pub(crate) fn problems(&self) -> (usize, Option<&(String, String)>) {
        (self.problems.0, self.problems.1.as_ref())
    }

    fn locate(&self, topic: &str) -> Option<(usize, (usize, String))> {
        let Some(Topic::Out { gateway, task, sample }) = Topic::parse(&self.site, topic) else { return None };
        let gateway = self.gateways.iter().position(|name| name == gateway)?;
        let task = self.tasks.iter().position(|name| name == task)?;
        Some((gateway, (task, sample.to_owned())))
    }

    async fn send(&mut self, gateway: usize, shipment: &Shipment, payload: Vec<u8>) -> Result<(), DemoError> {
        let topic = Topic::In {
            gateway: &self.gateways[gateway],
            task: &self.tasks[shipment.task],
            sample: &shipment.id,
        };
        self.publish(topic, payload).await
    }

    /// Sends the label of a sample.
    pub(crate) async fn label(
        &mut self,
        gateway: usize,
        shipment: &Shipment,
        label: &str,
    ) -> Result<(), DemoError> {
        let topic = Topic::Label {
            gateway: &self.gateways[gateway],
            task: &self.tasks[shipment.task],
            sample: &shipment.id,
        };
        self.publish(topic, label.as_bytes().to_vec()).await
    }

    async fn publish(&self, topic: Topic<'_>, payload: Vec<u8>) -> Result<(), DemoError> {
        let text = topic.text(&self.site);
        match self.handle.publish(text.as_str(), payload, Qos::AtLeastOnce, false).await {
            // The link comes back by itself, and what was lost is sent again.
            Ok(()) | Err(loadonce_link::LinkError::NotConnected) => Ok(()),
            Err(error) => Err(self.problem(error.to_string())),
        }
    }

    /// Sends what is queued and closes the connection.
    pub(crate) async fn close(&self) {
        self.handle.close().await;
    }

    /// Clears what the fleet left retained on the broker, and closes the connection.
    pub(crate) async fn tidy_up(&self, fingerprint: &str) -> Result<(), DemoError> {
        let states = self.gateways.iter().map(|gateway| Topic::State { gateway });
        let tasks = self
            .tasks
            .iter()
            .flat_map(|task| [Topic::Task { task }, Topic::Pointer { task, backbone: fingerprint }]);
        for topic in states.chain(tasks) {
            let text = topic.text(&self.site);
            self.handle
                .publish(text.as_str(), Vec::new(), Qos::AtLeastOnce, true)
                .await
                .map_err(|e| self.problem(format!("retained messages of site {} stay: {e}", self.site)))?;
        }
        self.handle.close().await;
        Ok(())
    }
}

/// A topic level that matches all of `names`.
fn only(names: &[String]) -> &str {
    if let [only] = names { only } else { "+" }
}
