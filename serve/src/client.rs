//! A thin gRPC client: what `detectd detect` and `detectd demo` send with.

use std::error::Error as _;
use std::time::Duration;

use bytes::Bytes;
use detectd_proto::detect::v1 as wire;
use detectd_proto::detect::v1::detect_service_client::DetectServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, TimeoutExpired};

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest message sent and taken.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// A connection to a server. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    service: DetectServiceClient<Channel>,
    timeout: Duration,
}

/// Which model is asked, and how the objects are chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Question {
    /// The model's name; empty where the server has only one.
    pub model: String,
    /// The version; 0 leaves it to the server.
    pub version: u64,
    /// What differs from the model's defaults.
    pub options: Option<wire::DetectOptions>,
}

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server's address cannot be used.
    #[error("the server address {address:?} cannot be used: {reason}")]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers there.
    #[error("cannot reach a server at {address}: {reason}")]
    Connect {
        /// With its scheme and port.
        address: String,
        /// The deepest cause.
        reason: String,
    },
    /// The server has taken the call and not answered in time; it may still be loading its models.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The server answered with an error.
    #[error("{}: {}", code_name(.0.code()), .0.message())]
    Status(Box<Status>),
}

/// Connects to `address`: `host:port`, with or without `http://`.
///
/// # Errors
/// The address is not one, or nobody answers there within five seconds.
pub async fn connect(address: &str) -> Result<Channel, ClientError> {
    let url = url(address).map_err(|reason| ClientError::Address { address: address.to_owned(), reason })?;
    let endpoint = Endpoint::from_shared(url.clone())
        .map_err(|error| ClientError::Address { address: address.to_owned(), reason: deepest(&error) })?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true);
    endpoint.connect().await.map_err(|error| ClientError::Connect { address: url, reason: deepest(&error) })
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl Client {
    /// Connects to `address`: `host:port`, with or without `http://`. `timeout` holds for every call.
    ///
    /// # Errors
    /// The address is not one, or nobody answers there within five seconds.
    pub async fn connect(address: &str, timeout: Duration) -> Result<Self, ClientError> {
        let service = DetectServiceClient::new(connect(address).await?)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self { service, timeout })
    }

    /// Finds the objects in an encoded image.
    ///
    /// # Errors
    /// The server's answer, or that there is none.
    pub async fn detect(
        &self,
        question: &Question,
        encoded: Bytes,
        request_id: &str,
    ) -> Result<wire::DetectResponse, ClientError> {
        let request = wire::DetectRequest {
            model: question.model.clone(),
            version: question.version,
            image: Some(wire::Image { source: Some(wire::image::Source::Encoded(encoded)) }),
            options: question.options.clone(),
            priority: wire::Priority::Unspecified.into(),
            request_id: request_id.to_owned(),
            rollout_key: String::new(),
        };
        let answer = self.service.clone().detect(self.request(request)).await;
        answer.map(Response::into_inner).map_err(|status| self.error(status))
    }

    /// A model version in detail.
    ///
    /// # Errors
    /// As [`Self::detect`].
    pub async fn model(&self, question: &Question) -> Result<wire::GetModelResponse, ClientError> {
        let request = wire::GetModelRequest { model: question.model.clone(), version: question.version };
        let answer = self.service.clone().get_model(self.request(request)).await;
        answer.map(Response::into_inner).map_err(|status| self.error(status))
    }

    /// A request with the deadline in it, which the server reads too.
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }

    /// A call that was given up on this side has the reason in its chain of causes.
    fn error(&self, status: Status) -> ClientError {
        let mut cause = status.source();
        while let Some(error) = cause {
            if error.is::<TimeoutExpired>() {
                return ClientError::Timeout(self.timeout);
            }
            cause = error.source();
        }
        ClientError::Status(Box::new(status))
    }
}

/// The code as the protocol spells it.
#[must_use]
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

fn url(address: &str) -> Result<String, String> {
    let (scheme, rest) = address.split_once("://").unwrap_or(("http", address));
    if scheme != "http" {
        return Err(format!("expected host:port or http://host:port, got the scheme {scheme}"));
    }
    let rest = rest.trim_end_matches('/');
    let port = rest.rsplit_once(':').map(|(_, port)| port);
    match port.map(str::parse::<u16>) {
        Some(Ok(_)) if !rest.starts_with(':') && !rest.contains('/') => Ok(format!("http://{rest}")),
        _ => Err("expected host:port, as in 127.0.0.1:8001".to_owned()),
    }
}

/// Transport errors say what went wrong only at the end of their chain of causes.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_a_scheme_or_are_refused() {
        assert_eq!(url("localhost:8001").as_deref(), Ok("http://localhost:8001"));
        assert_eq!(url("http://10.0.0.1:80/").as_deref(), Ok("http://10.0.0.1:80"));
        assert_eq!(url("[::1]:8001").as_deref(), Ok("http://[::1]:8001"));
        for address in ["", "localhost", ":8001", "host:port", "host:1/path", "https://host:443", "host:99999"] {
            assert!(url(address).is_err(), "{address}");
        }
    }

    #[tokio::test]
    async fn a_server_that_stays_silent_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let client = Client::connect(&address, Duration::from_millis(50)).await.expect("connected");
        let error = client.model(&Question::default()).await.expect_err("silence").to_string();
        assert_eq!(error, "no answer within 50ms");
    }

    #[tokio::test]
    async fn nobody_there_is_said_plainly() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        drop(listener);
        let error = Client::connect(&address, Duration::from_secs(1)).await.expect_err("nobody listens").to_string();
        assert!(error.starts_with(&format!("cannot reach a server at http://{address}: ")), "{error}");
        assert!(error.contains("refused"), "{error}");
    }
}
