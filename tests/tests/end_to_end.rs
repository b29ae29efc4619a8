//! A small fleet on real samples, from the first picture to the personal module.

use std::fs;

use loadonce_tests::client::{Client, Message};
use loadonce_tests::data::{self, MOTION_CHANNELS, Sample};
use loadonce_tests::site::{AgentOptions, AggregatorOptions, Site, digits, motion, topic_of};
use loadonce_tests::wait::until;

const GATEWAYS: [&str; 3] = ["press-1", "press-2", "press-3"];
/// Labelled samples per gateway: pictures, windows.
const DIGITS: usize = 24;
const MOTIONS: usize = 12;
/// Gradient rounds; the lineages end one version later.
const STEPS: u64 = 2;
/// Questions per gateway and task at the end.
const QUESTIONS: usize = 20;

/// Every gateway sees five classes more than the others.
fn mine(samples: &[Sample], gateway: usize, n: usize) -> Vec<Sample> {
    let of_mine = |label: &str| label.parse::<usize>().is_ok_and(|digit| digit % GATEWAYS.len() == gateway);
    let (often, rarely): (Vec<_>, Vec<_>) = samples.iter().cloned().partition(|s| of_mine(&s.label));
    let (often, rarely) = (often.into_iter().skip(gateway), rarely.into_iter().skip(7 * gateway));
    often.take(2 * n / 3).chain(rarely.take(n - 2 * n / 3)).collect()
}

#[test]
fn a_small_fleet_learns_from_pictures_and_windows() {
    let site = Site::new();
    let tasks = [digits(GATEWAYS.len(), STEPS, DIGITS), motion(GATEWAYS.len(), STEPS, MOTIONS)];
    let mut aggregator = site.aggregator(&tasks, AggregatorOptions::default());
    // Hears everything that crosses the broker, both connections of every agent.
    let everything = Client::connect(site.broker.port, "everything", &["#".to_owned()]);
    let mut agents = GATEWAYS.map(|name| site.agent(name, AgentOptions::default()));
    let client = site.client(&["gw/+/out/#"]);
    let (pictures, windows) = (data::digits(), data::motion());

    for (g, agent) in agents.iter_mut().enumerate() {
        agent.wait("both tasks are served", |f| {
            f["tasks"]["digits"].is_object() && f["tasks"]["motion"].is_object()
        });
        agent.log().wait(0, &["data plane connected"]);
        let own = topic_of(&format!("gw/{}", agent.name));
        let pictures = mine(&pictures.train, g, DIGITS);
        let windows: Vec<_> = windows.train.iter().skip(g).step_by(GATEWAYS.len()).take(MOTIONS).collect();
        assert_eq!((pictures.len(), windows.len()), (DIGITS, MOTIONS), "the data sets are large enough");
        for (i, sample) in pictures.iter().enumerate() {
            client.publish(&format!("{own}/in/digits/d{i}"), sample.payload.clone());
        }
        for (i, sample) in windows.iter().enumerate() {
            // Every other one as JSON.
            let raw = &sample.payload;
            let payload = if i % 2 == 0 { raw.clone() } else { data::json(raw, MOTION_CHANNELS) };
            client.publish(&format!("{own}/in/motion/m{i}"), payload);
        }
        let answer = client.wait(0, &format!("{}/out/digits/d0", agent.name), |_| true).json();
        assert!(answer["label"].is_null() && answer["version"] == 0, "there is no module yet: {answer}");
        assert_eq!(answer["exit"], 3, "without a module every exit runs: {answer}");
        for (i, sample) in pictures.iter().enumerate() {
            client.publish(&format!("{own}/label/digits/d{i}"), sample.label.as_str());
        }
        for (i, sample) in windows.iter().enumerate() {
            client
                .publish(&format!("{own}/label/motion/m{i}"), format!("{{\"label\":\"{}\"}}", sample.label));
        }
    }
    for agent in &mut agents {
        for task in ["digits", "motion"] {
            agent.wait_at_rest(task, STEPS + 1);
        }
    }

    for (task, labels) in [("digits", DIGITS), ("motion", MOTIONS)] {
        let mut summed = 0;
        let first = agents[0].slot(task);
        let shared = &first.files["shared.safetensors"];
        for agent in &agents {
            let figures = agent.task(task);
            assert_eq!(figures["labels"], labels, "{}: {figures}", agent.name);
            assert_eq!(
                (&figures["sums_sent"], &figures["steps_sent"]),
                (&1.into(), &STEPS.into()),
                "{figures}"
            );
            assert!(figures["personal"].is_string(), "{figures}");
            summed += labels as u64 - figures["heldout"].as_u64().expect("held-out labels are counted");
            let slot = agent.slot(task);
            assert_eq!(
                &slot.files["shared.safetensors"], shared,
                "{} serves another {task} module",
                agent.name
            );
            let personal = &slot.files["personal.safetensors"];
            assert_ne!(personal, shared, "the personal module carries a prior of its own");
            // It never leaves: neither the file nor its parameters are in any message.
            let parameters =
                &personal[8 + usize::from_le_bytes(personal[..8].try_into().expect("8 bytes"))..];
            let told = |m: &Message| m.payload.windows(64).any(|window| window == &parameters[..64]);
            assert!(!everything.since(0).iter().any(told), "{}'s personal module was sent", agent.name);
        }
        let hash = loadonce_trust::encode_hex(&loadonce_trust::hash(shared));
        let figures = aggregator.wait(&format!("the lineage of {task} is complete"), |f| {
            let tasks = f["tasks"].as_array().map(Vec::as_slice).unwrap_or_default();
            tasks.iter().any(|t| t["name"] == task && t["version"] == STEPS + 1)
        });
        let line = aggregator.task(task);
        assert_eq!(line["hash"], hash.as_str(), "{figures}");
        assert_eq!(line["wants"], "none", "{line}");
        assert_eq!(line["samples"], summed, "every label that is not held out is in the totals, once");
        assert_eq!(line["participants"], serde_json::json!([3, 3, 3]), "{line}");
    }

    let mut right = [0; 2];
    for (t, (task, set)) in [("digits", &pictures), ("motion", &windows)].into_iter().enumerate() {
        for (g, gateway) in GATEWAYS.iter().enumerate() {
            for (i, sample) in set.test.iter().skip(g * QUESTIONS).take(QUESTIONS).enumerate() {
                let mark = client.mark();
                client.publish(&topic_of(&format!("gw/{gateway}/in/{task}/q{i}")), sample.payload.clone());
                let answer = client.wait(mark, &format!("{gateway}/out/{task}/q{i}"), |_| true).json();
                let number = |key: &str| answer[key].as_f64().unwrap_or(f64::NAN);
                assert!(number("confidence") > 0.0 && number("confidence") <= 1.0, "{answer}");
                assert!((1.0..=3.0).contains(&number("exit")) && number("latency_ms") > 0.0, "{answer}");
                assert_eq!(answer["version"], STEPS + 1, "{answer}");
                right[t] += usize::from(answer["label"] == sample.label.as_str());
            }
        }
    }
    let asked = QUESTIONS * GATEWAYS.len();
    println!("right answers of {asked}: {} digits, {} motions", right[0], right[1]);
    // Far above chance (a tenth, a quarter) on samples of classes that most of a gateway's labels are not from.
    assert!(right[0] * 2 > asked, "{} of {asked} digits", right[0]);
    assert!(right[1] * 2 > asked, "{} of {asked} motions", right[1]);

    for agent in &mut agents {
        let refusals = agent.figures()["refusals"].clone();
        let counted = refusals.as_object().expect("refusals are counted by word");
        assert!(counted.iter().all(|(code, n)| n == 0 || code.ends_with("_unwanted")), "{refusals}");
        agent.process.stop();
        assert!(!agent.log().text().contains("panicked"));
    }
    aggregator.process.stop();
}

/// The same picture and the same window in every form and by both ways: the same answer.
#[test]
fn every_form_of_input_gets_the_same_answer() {
    let site = Site::new();
    let mut aggregator = site.aggregator(&[digits(1, 0, 40), motion(1, 0, 20)], AggregatorOptions::default());
    let spool = site.folder().join("spool");
    for task in ["digits", "motion"] {
        fs::create_dir_all(spool.join(task)).expect("a temporary folder can be made");
    }
    let mut agent =
        site.agent("press-1", AgentOptions { spool: Some(spool.clone()), ..AgentOptions::default() });
    let client = site.client(&["gw/+/out/#"]);
    agent.log().wait(0, &["data plane connected"]);
    let put = |task: &str, name: &str, bytes: &[u8]| {
        let hidden = spool.join(task).join(format!(".{name}"));
        fs::write(&hidden, bytes).expect("a temporary folder can be written");
        fs::rename(&hidden, spool.join(task).join(name)).expect("a file can be renamed");
    };
    let (pictures, windows) = (data::digits(), data::motion());
    // Put there before the tasks are known: the files wait.
    for (i, sample) in pictures.train[..40].iter().enumerate() {
        put("digits", &format!("t{i}.png"), &sample.payload);
        put("digits", &format!("t{i}.label"), sample.label.as_bytes());
    }
    for (i, sample) in windows.train.iter().step_by(2).enumerate() {
        put("motion", &format!("t{i}.f32"), &sample.payload);
        put("motion", &format!("t{i}.label"), sample.label.as_bytes());
    }
    for task in ["digits", "motion"] {
        agent.wait_at_rest(task, 1);
    }
    let taken = || {
        ["digits", "motion"].iter().all(|task| fs::read_dir(spool.join(task)).is_ok_and(|d| d.count() == 0))
    };
    until("empty spool", || taken().then_some(()));

    let (picture, window) = (&pictures.test[0].payload, &windows.test[0].payload);
    let (jpeg, json) = (data::jpeg(picture), data::json(window, MOTION_CHANNELS));
    let object = [&b"{\"channels\":"[..], &json, b"}"].concat();
    let forms: [(&str, &str, &[u8]); 5] = [
        ("digits", "png", picture),
        ("digits", "jpg", &jpeg),
        ("motion", "f32", window),
        ("motion", "json", &json),
        ("motion", "json", &object),
    ];
    for (i, (task, extension, bytes)) in forms.into_iter().enumerate() {
        let answer = |id: &str| {
            let answer = client.wait(0, &format!("press-1/out/{task}/{id}"), |_| true).json();
            (answer["label"].clone(), answer["confidence"].as_f64().unwrap_or_default())
        };
        client.publish(&topic_of(&format!("gw/press-1/in/{task}/mqtt-{i}")), bytes);
        put(task, &format!("spool-{i}.{extension}"), bytes);
        let (by_mqtt, by_spool) = (answer(&format!("mqtt-{i}")), answer(&format!("spool-{i}")));
        assert!(by_mqtt.0.is_string(), "{task} as {extension}: {by_mqtt:?}");
        assert_eq!(by_mqtt, by_spool, "{task} as {extension}");
        // JPEG loses a little, the forms of a window nothing.
        let (label, confidence) = answer(if task == "digits" { "mqtt-0" } else { "mqtt-2" });
        assert_eq!(by_mqtt.0, label, "{task} as {extension}");
        let loss = if extension == "jpg" { 0.3 } else { 0.0 };
        assert!((by_mqtt.1 - confidence).abs() <= loss, "{task} as {extension}: {} {confidence}", by_mqtt.1);
    }
    agent.process.stop();
    assert!(!agent.log().text().contains("panicked"));
    aggregator.process.stop();
}
