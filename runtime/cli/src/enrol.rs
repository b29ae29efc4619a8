//! `loadonce site` and `loadonce gateway`: the site's certificates, and the tokens by which gateways get theirs. Runs
//! beside the aggregator, on its configuration and state folder; a running aggregator need not be told.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use loadonce_aggregator::config::{Config, ConfigError};
use loadonce_aggregator::enrol::{
    EnrolTokenError, SiteError, SiteFiles, TokenOrder, enrolments, init_site, make_token, renew_site,
};
use loadonce_store::StoreError;
use loadonce_trust::date;
use miette::Diagnostic;
use thiserror::Error;

/// The certificates of a site.
#[derive(Debug, clap::Subcommand)]
pub enum SiteCommand {
    /// Makes the site's CA and the certificates of broker, aggregator and operator
    Init(SiteOptions),
    /// Makes new certificates of broker, aggregator and operator; the CA, and so every gateway's certificate, stays
    Renew(SiteOptions),
}

/// What both need.
#[derive(Debug, clap::Args)]
pub struct SiteOptions {
    /// The aggregator's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/loadonce/aggregator.toml")]
    config: PathBuf,
    /// Name or address by which gateways, aggregator or operator reach the broker; as often as there are some.
    /// `renew` takes those of before where none is given
    #[arg(long = "broker-host", value_name = "HOST")]
    hosts: Vec<String>,
}

/// Gateways and their tokens.
#[derive(Debug, clap::Subcommand)]
pub enum GatewayCommand {
    /// Makes a one-time token with which a gateway gets its certificate
    Enrol(EnrolOptions),
    /// Lists the gateways that are enrolled or have a token
    List {
        /// The aggregator's configuration
        #[arg(long, value_name = "FILE", default_value = "/etc/loadonce/aggregator.toml")]
        config: PathBuf,
    },
}

/// Command line of `loadonce gateway enrol`.
#[derive(Debug, clap::Args)]
pub struct EnrolOptions {
    /// The gateway's name
    name: String,
    /// The aggregator's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/loadonce/aggregator.toml")]
    config: PathBuf,
    /// Hours in which the token can be redeemed
    #[arg(long, value_name = "N", default_value_t = 72)]
    hours: u64,
    /// The gateway replaces one of the same name, or lost its state: what was known of the name counts no more
    #[arg(long)]
    replace: bool,
    /// Print the token and nothing else
    #[arg(long)]
    quiet: bool,
}

/// What stops these commands.
#[derive(Debug, Error, Diagnostic)]
pub enum EnrolError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The certificates of the site.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// No token.
    #[error(transparent)]
    Token(#[from] EnrolTokenError),
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EnrolError {
    /// Exit code of the program: 2 for wrong usage or configuration, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Site(SiteError::NoHosts) => 2,
            Self::Token(
                EnrolTokenError::Name(_) | EnrolTokenError::Hours(_) | EnrolTokenError::NoEndpoint,
            ) => 2,
            _ => 1,
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Runs `loadonce site`.
pub fn site(command: &SiteCommand) -> Result<(), EnrolError> {
    match command {
        SiteCommand::Init(options) => {
            let config = Config::read(&options.config)?;
            let files = init_site(&config.state, &config.settings.site, &options.hosts, now())?;
            println!(
                "the CA of site {} and what it signed are in {}",
                config.settings.site,
                files.folder.display()
            );
            println!(
                "  ca.key               keep it, and a copy elsewhere: who has it can make any gateway's certificate"
            );
            println!("  ca.pem               the CA's certificate, for everybody");
            println!("  aggregator.pem/.key  used by the aggregator from where they are");
            println!(
                "  operator.pem/.key    for `loadonce feed` and mosquitto_sub: --ca, --certificate, --key"
            );
            tell_broker(&files);
        }
        SiteCommand::Renew(options) => {
            let config = Config::read(&options.config)?;
            let files = renew_site(&config.state, &options.hosts, now())?;
            println!("new certificates of broker, aggregator and operator are in {}", files.folder.display());
            tell_broker(&files);
        }
    }
    Ok(())
}

fn tell_broker(files: &SiteFiles) {
    println!("  broker.pem/.key      for Mosquitto:");
    for name in ["ca.pem", "broker.pem", "broker.key"] {
        let mode = if Path::new(name).extension().is_some_and(|kind| kind == "key") { "600" } else { "644" };
        println!("    install -o mosquitto -m {mode} {} /etc/mosquitto/certs/", files.path(name).display());
    }
    println!("    systemctl restart mosquitto");
}

/// Runs `loadonce gateway`.
pub fn gateway(command: &GatewayCommand) -> Result<(), EnrolError> {
    match command {
        GatewayCommand::Enrol(options) => {
            let config = Config::read(&options.config)?;
            let order = TokenOrder { gateway: &options.name, hours: options.hours, replace: options.replace };
            let token = make_token(&config, &order, now())?;
            let text = token.to_text().ok_or(EnrolTokenError::TooLong)?;
            if options.quiet {
                println!("{text}");
                return Ok(());
            }
            println!(
                "token for gateway {}, to be redeemed once until {}:\n",
                token.gateway,
                date(token.expires)
            );
            println!("{text}\n");
            println!("In the gateway's agent.toml (site, gateway and broker are in the token):\n");
            println!("[enrol]\ntoken = \"{text}\"");
        }
        GatewayCommand::List { config } => {
            let config = Config::read(config)?;
            for enrolment in enrolments(&config, now())? {
                println!("{:<24} {:<60} {}", enrolment.gateway, enrolment.state, enrolment.key);
            }
        }
    }
    Ok(())
}
