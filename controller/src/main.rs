//! The controller's program: reads its configuration, then runs, or makes a join token or the
//! keys of a SeaweedFS.

use std::{process::ExitCode, time::SystemTime};

use clap::Parser as _;
use smart_storage_controller::{
    app,
    config::{Command, CommandLine, Config, EXIT_USAGE},
    fault, pki, telemetry,
};

fn main() -> ExitCode {
    fault::announce();
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) if error.use_stderr() => {
            let text = error.to_string();
            return fail(text.lines().next().unwrap_or("wrong arguments"), EXIT_USAGE);
        }
        Err(help) => {
            // Nobody is left to be told that standard output is closed.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    match line.command {
        Some(Command::JoinToken { node, data_dir }) => {
            return match app::join_token(&data_dir, &node) {
                Ok(token) => say(&token),
                Err(error) => fail(&error.to_string(), 1),
            };
        }
        Some(Command::SeaweedfsSecurity { dir, names }) => {
            return match pki::seaweedfs::make(&dir, &names, SystemTime::now()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error.to_string(), 1),
            };
        }
        None => {}
    }
    let config = match Config::try_from(line.flags) {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string(), EXIT_USAGE),
    };
    if let Err(error) = telemetry::init_logs(&config.log_level, config.log_json) {
        return fail(&format!("--log-level: {error}"), EXIT_USAGE);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no runtime: {error}"), 1),
    };
    match runtime.block_on(app::run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string(), 1),
    }
}

fn say(text: &str) -> ExitCode {
    use std::io::Write as _;
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn fail(text: &str, status: u8) -> ExitCode {
    use std::io::Write as _;
    // Without standard error the status has to be enough.
    let _ = writeln!(std::io::stderr(), "smart-storage-controller: {text}");
    ExitCode::from(status)
}
