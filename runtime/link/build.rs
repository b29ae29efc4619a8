//! The build's date: a gateway whose clock says 1970 knows that it is later than this.

use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse::<u64>().ok());
    let today =
        || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() / 86_400 * 86_400);
    println!("cargo:rustc-env=LOADONCE_BUILD_DATE={}", given.unwrap_or_else(today));
}
