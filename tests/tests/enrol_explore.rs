//! Enrolment and renewal under power cuts on both sides and lost messages: the real state machines over disks that lose
//! power, no process and no socket. Whatever happens, the gateway ends with a certificate that the aggregator knows, and
//! nobody else ever gets one for its token.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use loadonce_agent::enrol::{Applicant, Ask, Current, Purpose, Step};
use loadonce_aggregator::enrol::{Registrar, TokenRecord, write_token};
use loadonce_link::tls::exchange::Credentials;
use loadonce_store::Files;
use loadonce_store::crash::PowerCutFiles;
use loadonce_trust::enrol::{Answer, Refusal, encode_enrol};
use loadonce_trust::{Ca, CertificateFacts, Identity, PublicKey, TlsKey, Token, token_id};

const NOW: u64 = 1_795_000_000;
const YEAR: u64 = 365 * 86_400;
/// Turns after which a world that got nowhere has failed.
const PATIENCE: usize = 60;

struct World {
    gateway: PowerCutFiles,
    aggregator: PowerCutFiles,
    registrar: Option<Registrar<PowerCutFiles>>,
    pki: (String, String),
    token: Token,
    now: u64,
    seed: u64,
    /// Exchanges so far, and which of them lose their request or their answer.
    exchanges: usize,
    lost: Option<(usize, bool)>,
    /// Keys of certificates that were ever given out for the token.
    given: Vec<Vec<u8>>,
}

#[expect(clippy::unnecessary_wraps, reason = "it stands where others refuse")]
fn anybody(_: &str, _: &PublicKey, _: bool) -> Result<(), &'static str> {
    Ok(())
}

fn folder() -> PathBuf {
    PathBuf::from("/enrol")
}

impl World {
    fn new(pki: &(String, String)) -> Self {
        let ca = Ca::open(&pki.0, &pki.1).expect("a CA that was just made");
        let token = Token {
            secret: [5; 16],
            ca: ca.fingerprint(),
            issued: NOW,
            expires: NOW + 3600,
            gateway: "press-7".into(),
            site: "plant".into(),
            address: "a:1".into(),
            broker: "mqtts://b".into(),
        };
        let mut world = Self {
            gateway: PowerCutFiles::new(),
            aggregator: PowerCutFiles::new(),
            registrar: None,
            pki: pki.clone(),
            token,
            now: NOW,
            seed: 0,
            exchanges: 0,
            lost: None,
            given: Vec::new(),
        };
        world.open_registrar();
        let record = TokenRecord { id: world.token.id(), issued: NOW, expires: NOW + 3600, replaces: false };
        write_token(&world.aggregator, &folder(), "press-7", &record).expect("there is power");
        world
    }

    fn applicant(&self) -> Applicant<PowerCutFiles> {
        let identity = Identity::from_seed(&[9; 32]);
        let token = Some(self.token.clone());
        Applicant::new(self.gateway.clone(), "/tls".into(), "press-7".into(), identity, token, None)
    }

    fn open_registrar(&mut self) {
        while self.registrar.is_none() {
            let ca = Ca::open(&self.pki.0, &self.pki.1).expect("as before");
            match Registrar::open(self.aggregator.clone(), folder(), ca, [3; 32], 365) {
                Ok(registrar) => self.registrar = Some(registrar),
                Err(_) => self.aggregator = self.aggregator.power_cycle(self.seed),
            }
        }
    }

    /// `None` where the request, the answer or the aggregator was lost.
    fn exchange(&mut self, ask: &Ask) -> Option<Vec<u8>> {
        self.exchanges += 1;
        if self.lost == Some((self.exchanges, false)) {
            return None;
        }
        let shown = match &ask.credentials {
            Credentials::Fingerprint(ca) => {
                assert_eq!(*ca, self.token.ca);
                None
            }
            // What TLS would show: the certificate on the gateway's disk.
            Credentials::Files(_) => self.applicant().current().ok().flatten().map(|current| current.facts),
        };
        self.open_registrar();
        let registrar = self.registrar.as_mut().expect("it was just opened");
        let handled = registrar.handle(&ask.request, shown.as_ref(), self.now, &anybody);
        if self.aggregator.list(Path::new("/")).is_err() {
            // It lost power before it could say so: nothing was sent.
            self.registrar = None;
            self.aggregator = self.aggregator.power_cycle(self.seed);
            return None;
        }
        if let Some(Answer::Issued { certificate, .. }) = Answer::decode(&handled.answer)
            && ask.purpose == Purpose::Enrol
        {
            let facts = CertificateFacts::read(&certificate).expect("the CA makes certificates that read");
            assert_eq!(facts.name, "press-7");
            self.given.push(facts.public_key);
        }
        if self.lost == Some((self.exchanges, true)) { None } else { Some(handled.answer) }
    }

    /// Lets the gateway work until it rests.
    fn until_rest(&mut self) -> Result<(), String> {
        let mut last = String::new();
        for _ in 0..PATIENCE {
            let applicant = self.applicant();
            let stepped = applicant.next(self.now).and_then(|step| match step {
                Step::Rest(_) => Ok(true),
                Step::Ask(ask) => {
                    if let Some(answer) = self.exchange(&ask) {
                        applicant.answer(&ask, &answer)?;
                    }
                    Ok(false)
                }
            });
            match stepped {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => last = error.to_string(),
            }
            if self.gateway.list(Path::new("/")).is_err() {
                self.gateway = self.gateway.power_cycle(self.seed);
            }
        }
        Err(format!("the gateway does not come to rest: {last}"))
    }

    fn ask_by_hand(&mut self, request: &[u8]) -> Option<Refusal> {
        self.open_registrar();
        let registrar = self.registrar.as_mut().expect("it was just opened");
        registrar.handle(request, None, self.now, &anybody).refused.map(|refused| refused.0)
    }

    fn current(&self) -> Current {
        self.applicant().current().expect("it reads back").expect("there is a certificate")
    }

    /// From the token to a certificate that was renewed once.
    fn live(&mut self) -> Result<(), String> {
        self.until_rest()?;
        let first = self.current();
        if self.given.iter().any(|key| *key != first.facts.public_key) {
            return Err("certificates for different keys were given for one token".into());
        }
        // A thief who reads the token now gets nothing, and nor does he by guessing.
        let (tls, thief) = (TlsKey::generate().expect("randomness"), Identity::from_seed(&[8; 32]));
        let stolen = encode_enrol(&self.token.secret, "press-7", &tls, &thief).expect("randomness");
        assert_eq!(self.ask_by_hand(&stolen), Some(Refusal::UsedToken));
        let guessed = encode_enrol(&[6; 16], "press-7", &tls, &thief).expect("randomness");
        assert_eq!(self.ask_by_hand(&guessed), Some(Refusal::UnknownToken));
        assert_ne!(token_id(&[6; 16]), self.token.id());

        self.now += YEAR / 4 * 3;
        self.until_rest()?;
        let second = self.current();
        if second.facts.public_key == first.facts.public_key
            || second.facts.not_after <= first.facts.not_after
        {
            return Err("the certificate was not renewed".into());
        }
        if second.token != first.token || second.aggregator != [3; 32] {
            return Err("the renewed certificate is of another token or aggregator".into());
        }
        let known = self.registrar.as_ref().expect("it is open");
        let figures = known.figures();
        if figures.gateways != 1 || figures.corrupt != 0 {
            return Err(format!("{figures:?}"));
        }
        Ok(())
    }
}

fn pki() -> (String, String) {
    let (_, certificate, key) = Ca::make("plant", NOW).expect("randomness");
    (certificate, key)
}

/// Operations of both disks, and exchanges, in a life without trouble.
fn quiet(pki: &(String, String)) -> (u64, u64, usize) {
    let mut world = World::new(pki);
    let before = world.aggregator.operations();
    world.live().expect("nothing goes wrong here");
    (world.gateway.operations(), world.aggregator.operations() - before, world.exchanges)
}

#[test]
fn a_power_cut_at_any_write_or_a_lost_message_never_loses_the_gateway() {
    let pki = pki();
    let (on_gateway, on_aggregator, exchanges) = quiet(&pki);
    assert!(
        on_gateway > 20 && on_aggregator > 15 && exchanges == 4,
        "{on_gateway} {on_aggregator} {exchanges}"
    );
    let mut lives = 0;
    let mut live = |seed: u64, gateway: Option<u64>, aggregator: Option<u64>, lost: Option<(usize, bool)>| {
        let mut world = World::new(&pki);
        (world.seed, world.lost) = (seed, lost);
        if let Some(at) = gateway {
            world.gateway.cut_power_at(at);
        }
        if let Some(at) = aggregator {
            world.aggregator.cut_power_at(world.aggregator.operations() + at);
        }
        if let Err(trouble) = world.live() {
            panic!("cuts at {gateway:?} and {aggregator:?}, lost {lost:?}, seed {seed}: {trouble}");
        }
        lives += 1;
    };
    for seed in 0..6 {
        for at in 1..=on_gateway {
            live(seed, Some(at), None, None);
        }
        for at in 1..=on_aggregator {
            live(seed, None, Some(at), None);
        }
    }
    for exchange in 1..=exchanges {
        for answer in [false, true] {
            live(0, None, None, Some((exchange, answer)));
            for at in 1..=on_gateway {
                live(2, Some(at), None, Some((exchange, answer)));
            }
        }
    }
    for gateway in 1..=on_gateway {
        for aggregator in (1..=on_aggregator).filter(|aggregator| (aggregator + gateway) % 3 == 0) {
            live(3, Some(gateway), Some(aggregator), None);
        }
    }
    println!("{lives} lives");
}

fn fails(mut world: World) -> bool {
    std::panic::catch_unwind(AssertUnwindSafe(|| world.live().is_err())).unwrap_or(true)
}

/// The exploration is worth something: disks that lie about durability are found out.
#[test]
fn a_disk_that_does_not_sync_is_noticed() {
    let pki = pki();
    let (on_gateway, on_aggregator, _) = quiet(&pki);
    let mut found = [0, 0];
    for seed in 0..4 {
        for at in 1..=on_gateway {
            let mut world = World::new(&pki);
            world.seed = seed;
            world.gateway.forget_syncs();
            world.gateway.cut_power_at(at);
            found[0] += usize::from(fails(world));
        }
        for at in 1..=on_aggregator {
            let mut world = World::new(&pki);
            world.seed = seed;
            world.aggregator.forget_syncs();
            world.aggregator.cut_power_at(world.aggregator.operations() + at);
            found[1] += usize::from(fails(world));
        }
    }
    assert!(found[0] > 0 && found[1] > 0, "{found:?}");
}

#[test]
fn a_token_is_refused_when_its_time_is_over_its_name_is_taken_or_another_key_has_it() {
    let pki = pki();
    let (tls, other) = (TlsKey::generate().expect("randomness"), TlsKey::generate().expect("randomness"));
    let (identity, thief) = (Identity::from_seed(&[9; 32]), Identity::from_seed(&[8; 32]));
    let request = |secret: u8, tls: &TlsKey, identity: &Identity, name: &str| {
        encode_enrol(&[secret; 16], name, tls, identity).expect("randomness")
    };

    let mut world = World::new(&pki);
    world.now = NOW + 3601;
    assert_eq!(world.ask_by_hand(&request(5, &tls, &identity, "press-7")), Some(Refusal::ExpiredToken));
    world.now = NOW;
    assert_eq!(world.ask_by_hand(&request(5, &tls, &identity, "press-8")), Some(Refusal::UnknownToken));
    assert_eq!(world.ask_by_hand(&request(5, &tls, &identity, "../press-7")), Some(Refusal::UnknownToken));
    assert_eq!(world.ask_by_hand(b"GET / HTTP/1.1\r\n\r\n"), Some(Refusal::Malformed));
    assert_eq!(world.ask_by_hand(&request(5, &tls, &identity, "press-7")), None);
    // The answer was lost: again, even after the token's time, but for nobody else.
    world.now = NOW + 100_000;
    assert_eq!(world.ask_by_hand(&request(5, &tls, &identity, "press-7")), None);
    assert_eq!(world.ask_by_hand(&request(5, &other, &identity, "press-7")), Some(Refusal::OtherKey));
    assert_eq!(world.ask_by_hand(&request(5, &tls, &thief, "press-7")), Some(Refusal::OtherKey));

    // A second token for the name: only as its replacement.
    world.now = NOW;
    let put = |world: &World, replaces| {
        let record = TokenRecord { id: token_id(&[6; 16]), issued: NOW, expires: NOW + 3600, replaces };
        write_token(&world.aggregator, &folder(), "press-7", &record).expect("there is power");
    };
    put(&world, false);
    assert_eq!(world.ask_by_hand(&request(6, &other, &thief, "press-7")), Some(Refusal::NameTaken));
    put(&world, true);
    assert_eq!(world.ask_by_hand(&request(6, &other, &thief, "press-7")), None);
    assert_eq!(world.ask_by_hand(&request(5, &tls, &identity, "press-7")), Some(Refusal::UnknownToken));
    let refused = world.registrar.as_ref().expect("it is open").figures().refused;
    assert_eq!((refused["other_key"], refused["name_taken"], refused["unknown_token"]), (2, 1, 3));
    assert_eq!((refused["expired_token"], refused["malformed"]), (1, 1));
}
