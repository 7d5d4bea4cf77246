//! Tables for [`Config::check`], and the flags' own shape.

use clap::Parser;

use super::*;

/// What clap does with [`RawConfig`] where it is used: beside a subcommand and under it.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Harness {
    #[command(flatten)]
    raw: RawConfig,
    #[command(subcommand)]
    command: Option<HarnessCommand>,
}

#[derive(clap::Subcommand)]
enum HarnessCommand {
    Serve(RawConfig),
}

const KEYS: &str = "--secret-keys=k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const PUBLIC: &str = "--public-url=https://herald.example.com";

/// Flags only: the environment of whoever runs the tests must not matter.
fn raw(flags: &[&str]) -> RawConfig {
    use clap::{Args as _, FromArgMatches as _};
    let command = RawConfig::augment_args(clap::Command::new("herald")).mut_args(|arg| arg.env(None::<&str>));
    let matches = command.try_get_matches_from(["herald"].iter().chain(flags)).unwrap();
    RawConfig::from_arg_matches(&matches).unwrap()
}

fn check(flags: &[&str]) -> Result<Config, Problems> {
    Config::check(&raw(flags))
}

fn settings(flags: &[&str]) -> Vec<&'static str> {
    check(flags)
        .map_or_else(|problems| problems.0.iter().map(|problem| problem.setting).collect(), |_| vec![])
}

#[test]
fn development_needs_nothing() {
    let config = check(&[]).unwrap();
    assert_eq!(config.mode, Mode::Development);
    assert_eq!(config.listen, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(config.operator_listen, "127.0.0.1:8081".parse().unwrap());
    assert!(config.egress_http && config.egress_allow.is_empty() && config.egress_ports.is_none());
    assert!(config.database_url.is_none() && config.secret_keys.is_none() && config.dev_api_key.is_none());
    assert_eq!((config.session_ttl_s, config.delivery_timeout_ms, config.lease_ms), (900, 15_000, 30_000));
    assert_eq!((config.in_flight_max, config.callback_in_flight_max), (512, 4));
    assert_eq!(config.retry_delays_s, [5, 30, 120, 600, 3600, 10800, 21600, 43200, 86400, 86400]);
    assert!(config.stop_timeout_ms <= 20_000);
    assert_eq!(config.backlog_max, 5_000_000);
    assert_eq!((config.retention_days, config.batch_linger_ms), (30, 50));
    assert_eq!(
        (config.log.as_str(), config.log_format),
        ("info,sqlx=warn,sqlx_core::pool=off", LogFormat::Text)
    );
}

#[test]
fn the_mode_follows_the_database_unless_it_is_said() {
    let url = "--database-url=postgres://localhost/herald";
    for (flags, mode) in [
        (vec![], Mode::Development),
        (vec![url, KEYS, PUBLIC], Mode::Production),
        (vec![url, "--mode=development"], Mode::Development),
        (vec!["--mode=production", KEYS, PUBLIC], Mode::Production),
        (vec!["--mode=development", "--database-url="], Mode::Development),
        (vec!["--mode=", "--listen=", "--secret-keys= "], Mode::Development),
    ] {
        assert_eq!(check(&flags).unwrap().mode, mode, "{flags:?}");
    }
}

#[test]
fn rule_09_production_defaults_nothing_insecure() {
    let config = check(&["--mode=production", KEYS, PUBLIC]).unwrap();
    assert!(!config.egress_http && config.egress_allow.is_empty() && config.egress_ports.is_none());
    assert!(config.listen.ip().is_loopback() && config.operator_listen.ip().is_loopback());
    assert!(config.secret_keys.is_some() && config.dev_api_key.is_none());
}

#[test]
fn each_wrong_setting_is_named() {
    for (flag, setting) in [
        ("--mode=prod", "HERALD_MODE"),
        ("--listen=8080", "HERALD_LISTEN"),
        ("--listen=localhost:http", "HERALD_LISTEN"),
        ("--listen=0.0.0.0:8080", "HERALD_LISTEN"),
        ("--listen=[::]:8080", "HERALD_LISTEN"),
        ("--operator-listen=10.0.0.1:8081", "HERALD_OPERATOR_LISTEN"),
        ("--operator-listen=localhost:8080", "HERALD_OPERATOR_LISTEN"),
        ("--public-url=herald.example.com", "HERALD_PUBLIC_URL"),
        ("--public-url=https://a@herald.example.com", "HERALD_PUBLIC_URL"),
        ("--public-url=https://herald.example.com/?a=b", "HERALD_PUBLIC_URL"),
        ("--dev-api-key=short", "HERALD_DEV_API_KEY"),
        ("--secret-keys=k1", "HERALD_SECRET_KEYS"),
        ("--egress-allow=10.0.0.1/8", "HERALD_EGRESS_ALLOW"),
        ("--egress-allow=10.0.0.0/8,,", "HERALD_EGRESS_ALLOW"),
        ("--egress-allow=example.com", "HERALD_EGRESS_ALLOW"),
        ("--egress-ports=443,0", "HERALD_EGRESS_PORTS"),
        ("--egress-ports=70000", "HERALD_EGRESS_PORTS"),
        ("--egress-http=maybe", "HERALD_EGRESS_HTTP"),
        ("--nat64-prefix=64:ff9b::/64", "HERALD_NAT64_PREFIX"),
        ("--nat64-prefix=64:ff9b::/97", "HERALD_NAT64_PREFIX"),
        ("--nat64-prefix=10.0.0.0/8", "HERALD_NAT64_PREFIX"),
        ("--egress-proxy=https://proxy.internal:3128", "HERALD_EGRESS_PROXY"),
        ("--egress-proxy=http://user:canary@proxy.internal:3128", "HERALD_EGRESS_PROXY"),
        ("--partner-rate-per-s=0", "HERALD_PARTNER_RATE_PER_S"),
        ("--trusted-proxies=10.0.0.1/8", "HERALD_TRUSTED_PROXIES"),
        ("--session-ttl-s=0", "HERALD_SESSION_TTL_S"),
        ("--request-timeout-ms=1.5", "HERALD_REQUEST_TIMEOUT_MS"),
        ("--body-bytes-max=-1", "HERALD_BODY_BYTES_MAX"),
        ("--connections-max=0", "HERALD_CONNECTIONS_MAX"),
        ("--delivery-timeout-ms=1", "HERALD_DELIVERY_TIMEOUT_MS"),
        ("--delivery-timeout-ms=15001", "HERALD_LEASE_MS"),
        ("--lease-ms=29999", "HERALD_LEASE_MS"),
        ("--retry-delays-s=5,,30", "HERALD_RETRY_DELAYS_S"),
        ("--retry-delays-s=604801", "HERALD_RETRY_DELAYS_S"),
        ("--in-flight-max=3", "HERALD_CALLBACK_IN_FLIGHT_MAX"),
        ("--callback-in-flight-max=513", "HERALD_CALLBACK_IN_FLIGHT_MAX"),
        ("--callback-rate-per-s=0", "HERALD_CALLBACK_RATE_PER_S"),
        ("--callback-rate-per-s=10001", "HERALD_CALLBACK_RATE_PER_S"),
        ("--stop-timeout-ms=20001", "HERALD_STOP_TIMEOUT_MS"),
        ("--log=herald=loud", "HERALD_LOG"),
        ("--log-format=xml", "HERALD_LOG_FORMAT"),
    ] {
        assert_eq!(settings(&[flag]), [setting], "{flag}");
    }
}

#[test]
fn right_settings_are_taken_as_written() {
    let config = check(&[
        "--listen=localhost:0",
        "--operator-listen=[::1]:0",
        "--public-url=https://herald.example.com/base",
        "--egress-allow=10.0.0.0/8, fd00::/8,192.0.2.7",
        "--egress-ports=443, 9090",
        "--egress-http=off",
        "--nat64-prefix=64:ff9b::/96",
        "--egress-proxy=http://proxy.internal:3128",
        "--partner-rate-per-s=50",
        "--callback-rate-per-s=20",
        "--trusted-proxies=10.9.0.0/16",
        "--retry-delays-s=0,1, 2",
        "--lease-ms=40000",
        "--delivery-timeout-ms=20000",
        "--retries-max=3",
        "--retry-delay-max-s=60",
        "--log=info,herald=debug",
        "--log-format=json",
    ])
    .unwrap();
    assert_eq!(config.listen, "127.0.0.1:0".parse().unwrap());
    assert_eq!(
        config.egress_allow.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.0.0.0/8", "fd00::/8", "192.0.2.7/32"]
    );
    assert_eq!(config.egress_ports, Some(vec![443, 9090]));
    assert!(!config.egress_http && config.nat64_prefix.is_some());
    assert!(config.egress_proxy.is_some() && config.partner_rate_per_s == Some(50));
    assert_eq!(config.callback_rate_per_s, Some(20));
    assert_eq!(config.trusted_proxies, ["10.9.0.0/16".parse().unwrap()]);
    assert_eq!(config.retry_delays_s, [0, 1, 2]);
    assert_eq!((config.retries_max, config.retry_delay_max_s), (3, 60));
    assert_eq!(config.log_format, LogFormat::Json);
}

#[test]
fn all_problems_come_at_once() {
    let flags = ["--database-url=mysql://u:canary@h/d", "--dev-api-key=0123456789abcdef", "--lease-ms=1000"];
    assert_eq!(
        settings(&flags),
        ["DATABASE_URL", "HERALD_PUBLIC_URL", "HERALD_SECRET_KEYS", "HERALD_DEV_API_KEY", "HERALD_LEASE_MS"]
    );
    let said = check(&flags).unwrap_err().to_string();
    assert!(said.contains("openssl rand -base64 32") && said.contains("at least 30000"), "{said}");
    assert_eq!(said.matches("Instead: ").count(), 5);
}

/// Partners would be sent to an address that only this machine knows.
#[test]
fn production_must_be_told_where_partners_reach_it() {
    for unsaid in [None, Some("--public-url="), Some("--public-url= ")] {
        let flags: Vec<&str> = ["--mode=production", KEYS].into_iter().chain(unsaid).collect();
        assert_eq!(settings(&flags), ["HERALD_PUBLIC_URL"], "{unsaid:?}");
    }
    assert_eq!(
        settings(&["--mode=production", KEYS, "--public-url=herald.example.com"]),
        ["HERALD_PUBLIC_URL"]
    );
    assert_eq!(check(&[PUBLIC]).unwrap().mode, Mode::Development);
}

#[test]
fn an_empty_database_url_does_not_open_development() {
    assert_eq!(settings(&["--database-url=", PUBLIC]), ["DATABASE_URL", "HERALD_SECRET_KEYS"]);
}

#[test]
fn rule_10_no_secret_is_ever_repeated() {
    let canary = "canary0123456789";
    for flags in [
        vec![format!("--database-url=postgres://u:{canary}@[bad/d")],
        vec![format!("--database-url=postgres://u:{canary}@h/d")],
        vec![format!("--secret-keys={canary}")],
        vec![format!("--secret-keys={canary}:{canary}{canary}")],
        vec![format!("--dev-api-key={canary}\n")],
        vec![format!("--dev-api-key={canary}é")],
        vec![format!("--public-url=https://u:{canary}@h")],
        vec!["--mode=production".to_owned(), format!("--dev-api-key={canary}")],
    ] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let raw = raw(&flags);
        let checked = Config::check(&raw);
        let said = checked.as_ref().err().map(ToString::to_string);
        assert!(!format!("{raw:?} {checked:?} {said:?}").contains("canary"), "{flags:?}");
    }
}

#[test]
fn the_settings_stand_with_and_without_serve() {
    for line in [["herald", "--lease-ms=77000"].as_slice(), &["herald", "serve", "--lease-ms=77000"]] {
        let parsed = Harness::try_parse_from(line).unwrap();
        let raw = match parsed.command {
            Some(HarnessCommand::Serve(raw)) => raw,
            None => parsed.raw,
        };
        assert_eq!(raw.lease_ms.as_deref(), Some("77000"));
    }
}

/// docker-compose.yml passes on what is not set as well, empty.
#[test]
fn what_is_empty_is_not_set() {
    use clap::Args as _;
    let command = RawConfig::augment_args(clap::Command::new("herald"));
    let flags: Vec<String> =
        command.get_arguments().filter_map(|arg| arg.get_long()).map(|flag| format!("--{flag}=")).collect();
    let flags: Vec<&str> =
        flags.iter().map(String::as_str).filter(|flag| *flag != "--database-url=").collect();
    assert_eq!(format!("{:?}", check(&flags)), format!("{:?}", check(&[])));
}

#[test]
fn every_setting_has_a_flag_and_a_variable_of_the_same_name_and_shows_no_value() {
    use clap::Args as _;
    let command = RawConfig::augment_args(clap::Command::new("herald"));
    for arg in command.get_arguments() {
        let flag = arg.get_long().unwrap().replace('-', "_").to_uppercase();
        let variable = arg.get_env().unwrap().to_str().unwrap();
        assert!(
            variable == format!("HERALD_{flag}") || variable == "DATABASE_URL" && flag == variable,
            "{variable}"
        );
        assert!(arg.is_hide_env_values_set(), "{variable}");
    }
}
