//! Channel binding across a proxy that ends TLS on the backend's leg only.
//!
//! A server that is reached over TLS offers SCRAM-SHA-256-PLUS (RFC 5802, RFC 5929). A client
//! without TLS takes that for an attack and gives up, unless the offer is taken out: it then
//! says that it cannot bind (`n`), which every server accepts.

use crate::protocol::postgres::backend;
use crate::protocol::postgres::backend::Authentication;
use crate::protocol::postgres::frame::next_message;

/// Offers with channel binding end in this.
const BINDING: &[u8] = b"-PLUS";
/// AuthenticationSASL.
const SASL: [u8; 4] = [0, 0, 0, 10];

/// A server's first words without its offers of channel binding; what is anything else
/// comes back as it is.
#[must_use]
pub fn without_channel_binding(first_words: Vec<u8>) -> Vec<u8> {
    rewritten(&first_words).unwrap_or(first_words)
}

fn rewritten(first_words: &[u8]) -> Option<Vec<u8>> {
    let mut start = 0;
    loop {
        let message = next_message(&first_words[start..], first_words.len()).ok()??;
        let end = start + message.length;
        match message.tag {
            // NegotiateProtocolVersion may come first.
            b'v' => start = end,
            b'R' => {
                let mechanisms = message.body.strip_prefix(&SASL)?;
                let mechanisms = mechanisms.split(|byte| *byte == 0);
                let kept: Option<Vec<&str>> = mechanisms
                    .filter(|name| !name.is_empty() && !name.ends_with(BINDING))
                    .map(|name| std::str::from_utf8(name).ok())
                    .collect();
                let mechanisms = kept.filter(|kept| !kept.is_empty())?;
                let offer = backend::authentication(Authentication::Sasl {
                    mechanisms: &mechanisms,
                });
                return Some([&first_words[..start], &offer, &first_words[end..]].concat());
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &[u8] = b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0";

    fn offer(mechanisms: &[&str]) -> Vec<u8> {
        backend::authentication(Authentication::Sasl { mechanisms })
    }

    #[test]
    fn the_offer_of_channel_binding_is_taken_out() {
        let both = offer(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
        let plain = offer(&["SCRAM-SHA-256"]);
        assert_eq!(without_channel_binding(both.clone()), plain);
        let greeted = [VERSION, &both, b"rest"].concat();
        let expected = [VERSION, &plain, b"rest"].concat();
        assert_eq!(without_channel_binding(greeted), expected);
    }

    #[test]
    fn anything_else_stays_as_it_is() {
        let md5 = backend::authentication(Authentication::Md5Password { salt: [1; 4] });
        let only_binding = offer(&["SCRAM-SHA-256-PLUS"]);
        let cut = offer(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"])[..9].to_vec();
        for words in [md5, only_binding, cut, VERSION.to_vec(), Vec::new()] {
            assert_eq!(without_channel_binding(words.clone()), words);
        }
    }
}
