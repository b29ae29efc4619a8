//! Until when certificate files hold. They are read again every hour, for certificates are renewed in place.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use x509_cert::Certificate;

/// How old a reading may be.
const EVERY: Duration = Duration::from_hours(1);
/// Largest file that is read: a bundle of hundreds of certificates.
const MAX_FILE: u64 = 1024 * 1024;

/// The files, and what was read of them.
#[derive(Debug)]
pub(crate) struct Certificates {
    files: Vec<PathBuf>,
    /// File name, and when the first of its certificates ends, in seconds since 1970; `None` where it cannot be read.
    ends: Vec<(String, Option<i64>)>,
    read: Option<Instant>,
}

impl Certificates {
    pub(crate) fn new(files: Vec<PathBuf>) -> Self {
        Self { files, ends: Vec::new(), read: None }
    }

    /// What holds until when, at most an hour old.
    pub(crate) fn ends(&mut self, now: Instant) -> Vec<(String, Option<i64>)> {
        if self.read.is_none_or(|read| now.saturating_duration_since(read) >= EVERY) {
            self.read = Some(now);
            self.ends = self.files.iter().map(|file| (file.display().to_string(), first_end(file))).collect();
        }
        self.ends.clone()
    }
}

fn first_end(path: &PathBuf) -> Option<i64> {
    let read = || {
        let mut pem = Vec::new();
        File::open(path)?.take(MAX_FILE).read_to_end(&mut pem).map(|_| pem)
    };
    let problem = match read() {
        Ok(pem) => match Certificate::load_pem_chain(&pem) {
            Ok(chain) if !chain.is_empty() => {
                let end = |one: &Certificate| {
                    let end = one.tbs_certificate().validity().not_after.to_unix_duration().as_secs();
                    i64::try_from(end).unwrap_or(i64::MAX)
                };
                return chain.iter().map(end).min();
            }
            Ok(_) => "it holds no certificate".to_owned(),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    tracing::warn!(path = %path.display(), problem, "a file of `metrics.certificates` is not read");
    None
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    /// A certificate that ends after `days`, as the tools of operators make it.
    fn made(days: &str) -> (Vec<u8>, i64) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one.pem");
        let key = dir.path().join("key.pem");
        let out = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
            .args(["-subj", "/CN=plant", "-days", days, "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&path)
            .output()
            .expect("openssl is needed for this test: apt-get install openssl");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let told = Command::new("openssl")
            .args(["x509", "-noout", "-enddate", "-dateopt", "iso_8601", "-in"])
            .arg(&path)
            .output()
            .unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        let seconds = Command::new("date")
            .args(["-u", "+%s", "-d", told.trim().strip_prefix("notAfter=").unwrap()])
            .output()
            .unwrap();
        let seconds = String::from_utf8(seconds.stdout).unwrap().trim().parse().unwrap();
        (fs::read(&path).unwrap(), seconds)
    }

    #[test]
    fn the_first_end_of_a_chain_counts_as_openssl_tells_it() {
        // Beyond 2049 the date is written in another way.
        let ((near, near_end), (far, far_end)) = (made("30"), made("20000"));
        assert!(far_end > near_end + 86_400 * 19_000);
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let chain = file("chain.pem", &[&far[..], &near].concat());
        let alone = file("far.pem", &far);
        let broken = file("broken.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        let gone = dir.path().join("gone.pem");
        let mut certificates =
            Certificates::new(vec![chain.clone(), alone, broken, file("empty.pem", b""), gone]);
        let now = Instant::now();
        let ends: Vec<_> = certificates.ends(now).into_iter().map(|(_, end)| end).collect();
        assert_eq!(ends, [Some(near_end), Some(far_end), None, None, None]);

        fs::write(&chain, &far).unwrap();
        assert_eq!(certificates.ends(now + EVERY / 2)[0].1, Some(near_end), "it is not read every second");
        assert_eq!(certificates.ends(now + EVERY)[0].1, Some(far_end), "a renewed one is noticed");
    }
}
