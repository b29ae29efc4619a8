//! What enrolment reads: tokens, requests, answers, certificates, and the files that both sides keep of it.

use loadonce_agent::enrol::Current;
use loadonce_trust::enrol::{Answer, Request, encode_confirm, encode_enrol, encode_renew};
use loadonce_trust::{
    CertificateFacts, Identity, TlsKey, Token, certificates_from_pem, decode_hex, encode_hex, key_from_pem,
    to_pem,
};

use super::seed;

/// By OpenSSL; one of our own would differ from run to run.
const CERTIFICATE: &str = include_str!("../../../runtime/trust/tests/openssl.pem");

pub(super) fn run(data: &[u8]) {
    let Some((&decoder, rest)) = data.split_first() else { return };
    let text = std::str::from_utf8(rest);
    match decoder % 8 {
        0 => {
            if let Ok(text) = text
                && let Ok(token) = Token::parse(text)
            {
                let again = token.to_text().expect("what was read fits");
                assert_eq!(again, text.trim(), "a token has one text");
            }
        }
        // The checksum made true.
        1 => {
            let text = encode_hex(rest);
            let _id = decode_hex::<32>(&text);
            let names =
                rest.chunks(64).map(|name| String::from_utf8_lossy(name).into_owned()).collect::<Vec<_>>();
            let name = |at: usize| names.get(at).cloned().unwrap_or_default();
            let token = Token {
                secret: [1; 16],
                ca: [2; 32],
                issued: rest.len() as u64,
                expires: u64::MAX,
                gateway: name(0),
                site: name(1),
                address: name(2),
                broker: name(3),
            };
            if let Some(text) = token.to_text() {
                assert_eq!(Token::parse(&text), Ok(token));
            }
        }
        2 => {
            let _request = Request::decode(rest);
        }
        3 => {
            if let Some(answer) = Answer::decode(rest) {
                assert_eq!(answer.encode(), rest, "an answer has one encoding");
            }
        }
        4 => {
            if let Some(facts) = CertificateFacts::read(rest) {
                assert!(facts.name.len() <= rest.len() && facts.public_key.len() <= rest.len());
            }
        }
        5 => {
            let all = certificates_from_pem(rest).unwrap_or_default();
            assert!(all.iter().map(Vec::len).sum::<usize>() <= rest.len());
            let _key = key_from_pem(rest).and_then(|der| TlsKey::from_pkcs8(&der));
        }
        6 => {
            if let Some(current) = Current::parse(rest) {
                assert!(!current.address.contains('\n'));
            }
        }
        _ => {
            let _reads = loadonce_aggregator::fuzz::enrol_record(rest);
        }
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
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
    let der = certificates_from_pem(CERTIFICATE.as_bytes()).expect("it is PEM").remove(0);
    let (tls, identity) = (TlsKey::generate().expect("randomness"), Identity::from_seed(&[1; 32]));
    let pem = CERTIFICATE.to_owned() + &tls.to_pem();
    let issued = Answer::Issued { aggregator: [1; 32], certificate: der.clone(), ca: der.clone() };
    let refused = Answer::Refused(loadonce_trust::enrol::Refusal::UsedToken, "used".into());
    let own = format!("token: {0}\naggregator: {0}\naddress: h:1\n{pem}", "00".repeat(32));
    let record = format!(
        r#"{{"token":"{0}","key":"{0}","current":"{1}","offered":{{"key":"{1}","certificate":"3000","at":1}},"not_after":2}}"#,
        "00".repeat(32),
        "04".repeat(65)
    );
    let token_record = format!(r#"{{"id":"{}","issued":1,"expires":2,"replaces":false}}"#, "00".repeat(32));
    let enrol = encode_enrol(&[1; 16], "press-7", &tls, &identity).expect("randomness");
    vec![
        seed(0, token.to_text().expect("it fits").as_bytes()),
        seed(1, b"press-7"),
        seed(2, &enrol),
        seed(2, &encode_confirm()),
        seed(2, &encode_renew(&tls).expect("randomness")),
        seed(3, &issued.encode()),
        seed(3, &refused.encode()),
        seed(3, &Answer::Confirmed.encode()),
        seed(4, &der),
        seed(5, pem.as_bytes()),
        seed(5, to_pem("CERTIFICATE", &der).as_bytes()),
        seed(6, own.as_bytes()),
        seed(7, record.as_bytes()),
        seed(7, token_record.as_bytes()),
    ]
}
