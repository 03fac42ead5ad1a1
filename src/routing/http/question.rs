//! A request that nobody has sent: for people who ask where it would go.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Uri;
use http::Version;
use http::header;

use crate::protocol::http::target;
use crate::routing::http::HttpRequestView;

/// What routes and hashes look at, read as a real request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpQuestion {
    host: Option<String>,
    path: String,
    query: Option<String>,
    method: Method,
    headers: HeaderMap,
}

/// The same as people write it; what is missing is that of a plain `GET /`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WrittenRequest {
    pub host: Option<String>,
    /// With its query.
    pub path: Option<String>,
    pub method: Option<String>,
    /// Lines of `NAME: VALUE`.
    pub headers: Option<String>,
}

impl HttpQuestion {
    /// # Errors
    /// Which part is none of a request.
    pub fn read(written: &WrittenRequest) -> Result<Self, String> {
        let method = written.method.as_deref().unwrap_or("GET");
        let method = Method::from_bytes(method.as_bytes());
        let method = method.map_err(|_| "method is no HTTP method".to_owned())?;
        let uri: Uri = written
            .path
            .as_deref()
            .unwrap_or("/")
            .parse()
            .map_err(|_| {
                "path must begin with a slash and be encoded as in a request".to_owned()
            })?;
        let mut headers = HeaderMap::new();
        for line in written.headers.as_deref().unwrap_or_default().lines() {
            let (name, value) = header_field(line)
                .ok_or_else(|| format!("header {line:?} is not of the form NAME: VALUE"))?;
            headers.append(name, value);
        }
        if let Some(host) = &written.host {
            let host = HeaderValue::from_str(host).map_err(|_| "host is no host".to_owned())?;
            headers.insert(header::HOST, host);
        }
        let version = match headers.contains_key(header::HOST) {
            true => Version::HTTP_11,
            // The only one that may go without.
            false => Version::HTTP_10,
        };
        let read = target::read(&method, &uri, version, &headers);
        let target = read.map_err(|wrong| wrong.to_string())?;
        Ok(Self {
            host: target.host.map(|host| host.into_owned()),
            path: target.path.into_owned(),
            query: uri.query().map(str::to_owned),
            method,
            headers,
        })
    }

    pub fn view(&self) -> HttpRequestView<'_> {
        HttpRequestView {
            host: self.host.as_deref(),
            path: &self.path,
            method: &self.method,
            headers: &self.headers,
        }
    }

    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }
}

fn header_field(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    let value = HeaderValue::from_str(value.trim()).ok()?;
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_as_a_request_is() {
        let question = HttpQuestion::read(&WrittenRequest {
            host: Some("Shop.Test:8080".to_owned()),
            path: Some("/a/./b?x=1".to_owned()),
            method: Some("PUT".to_owned()),
            headers: Some("X-One: 1\nX-Two:2".to_owned()),
        });
        let question = question.unwrap();
        let view = question.view();
        assert_eq!(view.host, Some("shop.test"));
        assert_eq!((view.path, question.query()), ("/a/b", Some("x=1")));
        assert_eq!(view.method, Method::PUT);
        assert_eq!(view.headers["x-two"], "2");
    }

    #[test]
    fn what_is_no_request_is_named() {
        let wrong = |written: WrittenRequest| HttpQuestion::read(&written).unwrap_err();
        let text = |text: &str| Some(text.to_owned());
        let path = WrittenRequest {
            path: text("/../etc"),
            ..WrittenRequest::default()
        };
        assert!(wrong(path).contains("dot segments"));
        let headers = WrittenRequest {
            headers: text("no colon"),
            ..WrittenRequest::default()
        };
        assert!(wrong(headers).contains("NAME: VALUE"));
        let method = WrittenRequest {
            method: text("GE T"),
            ..WrittenRequest::default()
        };
        assert!(wrong(method).contains("method"));
    }
}
