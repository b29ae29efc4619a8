use super::*;

const GOOD: &str = r#"
    site = "plant"
    gateway = "press-7"
    state = "/tmp/x"
    backbone = { bundle = "b" }
    uplink = { broker = "mqtt://127.0.0.1:1883" }
    trust = { first_use = true }
"#;

#[test]
fn a_short_configuration_is_enough() {
    let config = Config::parse(GOOD, Path::new("agent.toml")).unwrap();
    assert!(config.serves("anything"));
    assert_eq!(config.uplink.keep_alive_s, None);
    assert_eq!(config.backbone.bundle, [Path::new("b")]);
    assert_eq!(config.power.scheduling, Scheduling::Idle);
    assert!(!config.power.on_battery);
}

#[test]
fn the_cpu_computes_unless_another_provider_is_asked_for() {
    let asked = |provider: &str| {
        let text = GOOD.replace("bundle = \"b\"", &format!("bundle = \"b\"{provider}"));
        Config::parse(&text, Path::new("agent.toml")).unwrap().backbone.provider
    };
    assert_eq!(asked(""), Provider::Cpu);
    for provider in [Provider::Cpu, Provider::Auto, Provider::Cuda, Provider::TensorRt] {
        assert_eq!(asked(&format!(", provider = \"{}\"", provider.as_str())), provider);
    }
}

#[test]
fn a_token_says_who_and_where() {
    let token = Token {
        secret: [1; 16],
        ca: [2; 32],
        issued: 3,
        expires: 4,
        gateway: "press-7".into(),
        site: "plant".into(),
        address: "10.0.0.5:8884".into(),
        broker: "mqtts://10.0.0.5:8883".into(),
    };
    let text = token.to_text().unwrap();
    let short = format!("state = \"/tmp/x\"\nbackbone = {{ bundle = \"b\" }}\n[enrol]\ntoken = \"{text}\"\n");
    let config = Config::parse(&short, Path::new("agent.toml")).unwrap();
    assert_eq!((config.gateway.as_str(), config.site.as_str()), ("press-7", "plant"));
    assert_eq!(config.uplink.broker, "mqtts://10.0.0.5:8883");
    assert_eq!(config.token(), Some(token));
    assert_eq!(config.tls_files(), Some(enrolled_files(Path::new("/tmp/x/tls"))));
    let other = format!("gateway = \"press-8\"\n{short}");
    let error = Config::parse(&other, Path::new("agent.toml")).unwrap_err().to_string();
    assert!(error.contains("is for gateway press-7"), "{error}");
    // Renewal needs no token, and a file that is gone is none.
    let done = GOOD.replace("mqtt://", "mqtts://") + "[enrol]\ntoken_file = \"/no/such/token\"\n";
    assert!(Config::parse(&done, Path::new("agent.toml")).unwrap().token().is_none());
}

#[test]
fn several_bundles_are_a_list() {
    let text = GOOD.replace("bundle = \"b\"", "bundle = [\"b\", \"c\"]");
    let config = Config::parse(&text, Path::new("agent.toml")).unwrap();
    assert_eq!(config.backbone.bundle, [Path::new("b"), Path::new("c")]);
}

#[test]
fn mistakes_name_file_and_key() {
    for (from, to, word) in [
        ("press-7", "press/7", "gateway"),
        ("first_use = true", "first_use = false", "aggregator_key"),
        ("first_use = true", "aggregator_key = 'zz'", "aggregator_key"),
        ("site =", "siet =", "siet"),
        ("mqtt://", "mqtts://", "[enrol]"),
        ("mqtt://", "https://", "uplink"),
        ("first_use = true }", "first_use = true }\n[tls]\nca = 'x'\ncertificate = 'y'", "`key`"),
        ("first_use = true }", "first_use = true }\n[enrol]\ntoken = 'x'", "enrol.token"),
        ("1883\"", "1883\", backoff_cap_s = 0", "backoff_cap_s"),
        ("1883\"", "1883\", keep_alive_s = 0", "keep_alive_s"),
        ("bundle = \"b\"", "bundle = \"b\", threads = 0", "threads"),
        ("bundle = \"b\"", "bundle = []", "backbone.bundle"),
        ("bundle = \"b\"", "bundle = 7", "a list of such folders"),
        ("first_use = true }", "first_use = true }\n[power]\nhottest_c = 5", "power.hottest_c"),
        ("first_use = true }", "first_use = true }\n[power]\ncooler_c = nan", "power.cooler_c"),
        ("first_use = true }", "first_use = true }\n[power]\nbattery_percent = 101", "battery_percent"),
        ("first_use = true }", "first_use = true }\n[power]\nscheduling = 'never'", "scheduling"),
        ("bundle = \"b\"", "bundle = \"b\", provider = \"gpu\"", "tensorrt"),
    ] {
        let error = Config::parse(&GOOD.replace(from, to), Path::new("agent.toml")).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("agent.toml"), "{error}");
    }
}
