//! How a service is started.

use super::field::{all_into, each, port, protocol, span, span_option, within};
use super::word::{Word, text_option, word_option};
use super::{Check, Checks, Copies, EndpointSpec, EndpointSpecs, Env, EnvValue, Launch, Limits, Restart, env_value};
use crate::error::{Error, Result};
use crate::launch;
use crate::span::Span;

impl From<launch::Launch> for Launch {
    fn from(value: launch::Launch) -> Self {
        Launch {
            program: value.program,
            command: value.command.map(Into::into),
            args: value.args.map(Into::into),
            env: value.env.map(|env| Env { values: env.into_iter().map(|(k, v)| (k, v.into())).collect() }),
            directory: value.directory,
            hosts: value.hosts.map(Into::into),
            copies: value.copies.map(Into::into),
            start: text_option(value.start),
            start_by: value.start_by.map(Into::into),
            dns_start: value.dns_start,
            idle_stop_ms: value.idle_stop.map(Span::as_millis),
            endpoints: value.endpoints.map(|list| EndpointSpecs { values: all_into(list) }),
            listen: value.listen.map(Into::into),
            ready: text_option(value.ready),
            ready_path: value.ready_path,
            start_timeout_ms: value.start_timeout.map(Span::as_millis),
            stop_timeout_ms: value.stop_timeout.map(Span::as_millis),
            restart: value.restart.map(Into::into),
            limits: value.limits.map(Into::into),
            user: value.user,
            on_partition: text_option(value.on_partition),
            handover: text_option(value.handover),
            convention: text_option(value.convention),
            check: value.check.map(|list| Checks { values: all_into(list) }),
        }
    }
}

impl TryFrom<Launch> for launch::Launch {
    type Error = Error;

    fn try_from(message: Launch) -> Result<Self> {
        let env = message.env.map(|env| {
            let read = |(key, value): (String, EnvValue)| match launch::EnvValue::try_from(value) {
                Ok(value) => Ok((key, value)),
                Err(error) => Err(within(format_args!("env.{key}"))(error)),
            };
            env.values.into_iter().map(read).collect()
        });
        Ok(launch::Launch {
            program: message.program,
            command: message.command.map(Into::into),
            args: message.args.map(Into::into),
            env: env.transpose()?,
            directory: message.directory,
            hosts: message.hosts.map(Into::into),
            copies: message.copies.map(Into::into),
            start: word_option(message.start, "start")?,
            start_by: message.start_by.map(Into::into),
            dns_start: message.dns_start,
            idle_stop: span_option(message.idle_stop_ms, "idle_stop_ms")?,
            endpoints: message.endpoints.map(|list| each(list.values, "endpoints")).transpose()?,
            listen: message.listen.map(Into::into),
            ready: word_option(message.ready, "ready")?,
            ready_path: message.ready_path,
            start_timeout: span_option(message.start_timeout_ms, "start_timeout_ms")?,
            stop_timeout: span_option(message.stop_timeout_ms, "stop_timeout_ms")?,
            restart: message.restart.map(launch::Restart::try_from).transpose().map_err(within("restart"))?,
            limits: message.limits.map(Into::into),
            user: message.user,
            on_partition: word_option(message.on_partition, "on_partition")?,
            handover: word_option(message.handover, "handover")?,
            convention: word_option(message.convention, "convention")?,
            check: message.check.map(|list| each(list.values, "check")).transpose()?,
        })
    }
}

impl From<launch::Check> for Check {
    fn from(value: launch::Check) -> Self {
        Check {
            kind: value.kind.text().into(),
            endpoint: value.endpoint,
            path: value.path,
            status: value.status.map(|range| range.to_string()),
            service: value.service,
            command: value.command.map(Into::into),
            program: value.program,
            args: value.args.map(Into::into),
            interval_ms: value.interval.map(Span::as_millis),
            timeout_ms: value.timeout.map(Span::as_millis),
            ttl_ms: value.ttl.map(Span::as_millis),
            rise: value.rise,
            fall: value.fall,
            restart: value.restart,
        }
    }
}

impl TryFrom<Check> for launch::Check {
    type Error = Error;

    fn try_from(message: Check) -> Result<Self> {
        let status = message.status.map(|text| text.parse().map_err(|why: String| Error::invalid("status", why)));
        Ok(launch::Check {
            kind: Word::read(&message.kind, "kind")?,
            endpoint: message.endpoint,
            path: message.path,
            status: status.transpose()?,
            service: message.service,
            command: message.command.map(Into::into),
            program: message.program,
            args: message.args.map(Into::into),
            interval: span_option(message.interval_ms, "interval_ms")?,
            timeout: span_option(message.timeout_ms, "timeout_ms")?,
            ttl: span_option(message.ttl_ms, "ttl_ms")?,
            rise: message.rise,
            fall: message.fall,
            restart: message.restart,
        })
    }
}

impl From<launch::EnvValue> for EnvValue {
    fn from(value: launch::EnvValue) -> Self {
        let value = match value {
            launch::EnvValue::Text(text) => env_value::Value::Text(text),
            launch::EnvValue::Secret { secret } => env_value::Value::Secret(secret),
        };
        EnvValue { value: Some(value) }
    }
}

impl TryFrom<EnvValue> for launch::EnvValue {
    type Error = Error;

    fn try_from(message: EnvValue) -> Result<Self> {
        match message.value {
            Some(env_value::Value::Text(text)) => Ok(launch::EnvValue::Text(text)),
            Some(env_value::Value::Secret(secret)) => Ok(launch::EnvValue::Secret { secret }),
            None => Err(Error::new(crate::Code::InvalidArgument, "a variable needs a text or the name of a secret")),
        }
    }
}

impl From<launch::Copies> for Copies {
    fn from(value: launch::Copies) -> Self {
        Copies { min: Some(value.min), max: Some(value.max) }
    }
}

impl From<Copies> for launch::Copies {
    fn from(message: Copies) -> Self {
        let unsaid = launch::Copies::default();
        launch::Copies { min: message.min.unwrap_or(unsaid.min), max: message.max.unwrap_or(unsaid.max) }
    }
}

impl From<launch::Restart> for Restart {
    fn from(value: launch::Restart) -> Self {
        Restart {
            max: Some(value.max),
            window_ms: Some(value.window.as_millis()),
            backoff_ms: Some(value.backoff.as_millis()),
        }
    }
}

impl TryFrom<Restart> for launch::Restart {
    type Error = Error;

    fn try_from(message: Restart) -> Result<Self> {
        let unsaid = launch::Restart::default();
        Ok(launch::Restart {
            max: message.max.unwrap_or(unsaid.max),
            window: message.window_ms.map_or(Ok(unsaid.window), |ms| span(ms, "window_ms"))?,
            backoff: message.backoff_ms.map_or(Ok(unsaid.backoff), |ms| span(ms, "backoff_ms"))?,
        })
    }
}

impl From<launch::Limits> for Limits {
    fn from(value: launch::Limits) -> Self {
        Limits { cpu: value.cpu, memory: value.memory.map(|bytes| bytes.0), files: value.files }
    }
}

impl From<Limits> for launch::Limits {
    fn from(message: Limits) -> Self {
        launch::Limits { cpu: message.cpu, memory: message.memory.map(launch::Bytes), files: message.files }
    }
}

impl From<launch::EndpointSpec> for EndpointSpec {
    fn from(value: launch::EndpointSpec) -> Self {
        EndpointSpec { protocol: value.protocol, port: value.port.into(), address: value.address }
    }
}

impl TryFrom<EndpointSpec> for launch::EndpointSpec {
    type Error = Error;

    fn try_from(message: EndpointSpec) -> Result<Self> {
        Ok(launch::EndpointSpec {
            protocol: protocol(message.protocol),
            port: port(message.port, "port")?,
            address: message.address,
        })
    }
}
