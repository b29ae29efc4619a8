//! Loads a bundle and stops before and after it for whoever measures this process from outside: prints `before`, waits
//! for a line, loads, prints `after`, waits until standard input ends.
//!
//!     load BUNDLE        ORT_DYLIB_PATH names the library

use std::error::Error;
use std::io::{self, BufRead};

use loadonce_backbone::{Backbone, Bundle, EngineOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: load BUNDLE")?;
    let mut lines = io::stdin().lock().lines();
    println!("before");
    let _begin = lines.next();
    let backbone = Backbone::load(Bundle::open(folder.as_ref())?, &EngineOptions::default())?;
    println!("after");
    for _line in lines {}
    drop(backbone);
    Ok(())
}
