//! Logins with servers that are right, wrong and evil.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::Hmac;
use hmac::KeyInit;
use hmac::Mac;
use sha2::Digest;
use sha2::Sha256;

use super::*;
use crate::protocol::postgres::TransactionStatus;
use crate::protocol::postgres::backend;
use crate::protocol::postgres::backend::Authentication;
use crate::protocol::postgres::error::ErrorResponse;

const PASSWORD: &str = "pencil";
const BOTH: &[&str] = &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"];

fn login(password: Option<&str>) -> Login {
    login_with(password, Cleartext::Send, ChannelBinding::Unavailable)
}

fn login_with(password: Option<&str>, cleartext: Cleartext, binding: ChannelBinding<'_>) -> Login {
    let (login, startup) = Login::new(&Credentials {
        user: "md5_user",
        database: "postgres",
        password,
        application_name: "evergate",
        cleartext,
        binding,
    });
    assert_eq!(
        startup,
        frontend::startup_message(&[
            ("user", "md5_user"),
            ("database", "postgres"),
            ("application_name", "evergate"),
            ("client_encoding", "UTF8"),
        ])
    );
    login
}

fn tell(login: &mut Login, message: &[u8]) -> Result<LoginStep, LoginError> {
    login.on_message(message[0], &message[5..])
}

fn ask(login: &mut Login, message: Authentication<'_>) -> Result<LoginStep, LoginError> {
    tell(login, &backend::authentication(message))
}

/// What the client answers, without its header.
fn answer(login: &mut Login, message: Authentication<'_>) -> Vec<u8> {
    match ask(login, message) {
        Ok(LoginStep::Send(bytes)) => {
            assert_eq!(bytes[0], b'p');
            bytes[5..].to_vec()
        }
        other => panic!("{other:?}"),
    }
}

fn ready() -> Vec<u8> {
    backend::ready_for_query(TransactionStatus::Idle)
}

fn assert_let_in(login: &mut Login) {
    assert_eq!(ask(login, Authentication::Ok), Ok(LoginStep::Wait));
    assert!(matches!(tell(login, &ready()), Ok(LoginStep::Ready(_))));
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut hmac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    for part in parts {
        hmac.update(part);
    }
    hmac.finalize().into_bytes().into()
}

fn xor(a: [u8; 32], b: [u8; 32]) -> [u8; 32] {
    std::array::from_fn(|at| a[at] ^ b[at])
}

/// The server's side of SCRAM-SHA-256 (RFC 5802 §3).
struct ScramServer {
    salted_password: [u8; 32],
    client_first: String,
    server_first: String,
}

impl ScramServer {
    /// Takes the body of a SASLInitialResponse; returns what mechanism and header it had, too.
    fn begin(password: &str, initial: &[u8]) -> (Self, String, String) {
        let mut initial = Cursor(initial);
        let mechanism = String::from_utf8(initial.c_string().unwrap().to_vec()).unwrap();
        assert_eq!(initial.u32().unwrap() as usize, initial.0.len());
        let message = str::from_utf8(initial.0).unwrap();
        let (header, client_first) = message.split_at(message.find("n=,r=").unwrap());
        let (salt, iterations) = (b"0123456789abcdef", 4096);

        let mut last = hmac(password.as_bytes(), &[salt, &[0, 0, 0, 1]]);
        let mut salted_password = last;
        for _ in 1..iterations {
            last = hmac(password.as_bytes(), &[&last]);
            salted_password = xor(salted_password, last);
        }
        let nonce = client_first.strip_prefix("n=,r=").unwrap();
        let salt = STANDARD.encode(salt);
        let server = Self {
            salted_password,
            client_first: client_first.to_owned(),
            server_first: format!("r={nonce}server,s={salt},i={iterations}"),
        };
        (server, mechanism, header.to_owned())
    }

    /// Checks the client's proof and returns the channel binding and the server's own proof.
    fn finish(&self, response: &[u8]) -> (Vec<u8>, String) {
        let response = str::from_utf8(response).unwrap();
        let (without_proof, proof) = response.rsplit_once(",p=").unwrap();
        let signed = format!(
            "{},{},{without_proof}",
            self.client_first, self.server_first
        );
        let client_key = hmac(&self.salted_password, &[b"Client Key"]);
        let stored_key = Sha256::digest(client_key);
        let expected = xor(client_key, hmac(&stored_key, &[signed.as_bytes()]));
        assert_eq!(STANDARD.decode(proof).unwrap(), expected, "the proof");

        let server_key = hmac(&self.salted_password, &[b"Server Key"]);
        let proof = STANDARD.encode(hmac(&server_key, &[signed.as_bytes()]));
        let binding = without_proof.strip_prefix("c=").unwrap();
        let binding = binding.split(',').next().unwrap();
        (STANDARD.decode(binding).unwrap(), format!("v={proof}"))
    }
}

#[test]
fn a_trusting_server_lets_us_in_and_tells_about_itself() {
    let mut login = login(None);
    let key = CancelKey::new(42, b"abcd").unwrap();
    for message in [
        backend::authentication(Authentication::Ok),
        backend::parameter_status("server_version", "18.1 \x1b[2J"),
        backend::parameter_status("in_hot_standby", "on"),
        backend::parameter_status("default_transaction_read_only", "off"),
        backend::parameter_status("TimeZone", "UTC"),
        backend::backend_key_data(&key),
    ] {
        assert_eq!(tell(&mut login, &message), Ok(LoginStep::Wait));
    }
    let expected = LoggedIn {
        parameters: ServerParameters {
            server_version: Some("18.1  [2J".to_owned()),
            in_hot_standby: Some(true),
            default_transaction_read_only: Some(false),
        },
        key: Some(key),
    };
    assert_eq!(tell(&mut login, &ready()), Ok(LoginStep::Ready(expected)));
}

#[test]
fn a_parameter_that_changes_is_noted() {
    let mut parameters = ServerParameters::default();
    for (body, in_hot_standby) in [
        (&b"in_hot_standby\0on\0"[..], Some(true)),
        (b"in_hot_standby\0off\0", Some(false)),
        (b"in_hot_standby\0on", Some(false)),
        (b"", Some(false)),
        (b"in_hot_standby\0maybe\0", None),
    ] {
        parameters.note(body);
        assert_eq!(parameters.in_hot_standby, in_hot_standby);
    }
    parameters.note(format!("server_version\0{}\0", "1".repeat(999)).as_bytes());
    let version_bytes = parameters.server_version.map(|version| version.len());
    assert_eq!(version_bytes, Some(MAX_VERSION_BYTES));
}

#[test]
fn a_password_goes_out_in_clear_text_only_if_that_was_decided() {
    let mut willing = login(Some(PASSWORD));
    let sent = answer(&mut willing, Authentication::CleartextPassword);
    assert_eq!(sent, b"pencil\0");
    assert_let_in(&mut willing);

    let binding = ChannelBinding::Unavailable;
    let mut careful = login_with(Some(PASSWORD), Cleartext::Refuse, binding);
    let refused = ask(&mut careful, Authentication::CleartextPassword);
    assert_eq!(refused, Err(LoginError::CleartextRefused));
}

#[test]
fn md5_hashes_user_password_and_salt() {
    let mut login = login(Some("password"));
    let salt = [0x2a, 0x3d, 0x8f, 0xe0];
    let sent = answer(&mut login, Authentication::Md5Password { salt });
    assert_eq!(sent, b"md562af4dd09bbb41884907a838a3233294\0");
    assert_let_in(&mut login);
}

#[test]
fn scram_proves_both_sides() {
    let hash = [0x5a; 32];
    let with_hash = ChannelBinding::ServerEndPoint(&hash);
    let bound = [&b"p=tls-server-end-point,,"[..], &hash].concat();
    for (binding, offered, mechanism, header, channel) in [
        (
            ChannelBinding::Unavailable,
            BOTH,
            BOTH[1],
            "n,,",
            &b"n,,"[..],
        ),
        (
            ChannelBinding::Unavailable,
            &BOTH[1..],
            BOTH[1],
            "n,,",
            b"n,,",
        ),
        (with_hash, BOTH, BOTH[0], "p=tls-server-end-point,,", &bound),
        (with_hash, &BOTH[1..], BOTH[1], "y,,", b"y,,"),
    ] {
        let mut login = login_with(Some(PASSWORD), Cleartext::Refuse, binding);
        let sasl = Authentication::Sasl {
            mechanisms: offered,
        };
        let initial = answer(&mut login, sasl);
        let (server, chosen, sent_header) = ScramServer::begin(PASSWORD, &initial);
        assert_eq!((chosen.as_str(), sent_header.as_str()), (mechanism, header));
        let challenge = Authentication::SaslContinue(server.server_first.as_bytes());
        let (sent_channel, proof) = server.finish(&answer(&mut login, challenge));
        assert_eq!(sent_channel, channel);
        let last = Authentication::SaslFinal(proof.as_bytes());
        assert_eq!(ask(&mut login, last), Ok(LoginStep::Wait));
        assert_let_in(&mut login);
    }
}

#[test]
fn two_logins_never_share_a_nonce() {
    let sasl = Authentication::Sasl { mechanisms: BOTH };
    let first = answer(&mut login(Some(PASSWORD)), sasl);
    let second = answer(&mut login(Some(PASSWORD)), sasl);
    assert_ne!(first, second);
}

/// A login and a server in the middle of SCRAM: the challenge was not sent yet.
fn scram_begun() -> (Login, ScramServer) {
    let mut login = login(Some(PASSWORD));
    let initial = answer(&mut login, Authentication::Sasl { mechanisms: BOTH });
    let (server, ..) = ScramServer::begin(PASSWORD, &initial);
    (login, server)
}

#[test]
fn a_server_that_does_not_know_the_password_is_found_out() {
    for proof in [
        &b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="[..],
        b"v=",
        b"e=invalid-proof",
        b"\xff",
        b"",
        &[b'v'; 2000],
    ] {
        let (mut login, server) = scram_begun();
        let challenge = Authentication::SaslContinue(server.server_first.as_bytes());
        answer(&mut login, challenge);
        let result = ask(&mut login, Authentication::SaslFinal(proof));
        assert!(matches!(result, Err(LoginError::Scram(_))), "{result:?}");
        let after = ask(&mut login, Authentication::Ok);
        assert_eq!(after, Err(LoginError::Unexpected('R')), "the login is over");
    }
}

#[test]
fn a_server_cannot_leave_out_its_proof() {
    let (mut login, server) = scram_begun();
    let skipped = LoginError::Scram("the server has not proved who it is");
    let challenge = Authentication::SaslContinue(server.server_first.as_bytes());
    answer(&mut login, challenge);
    assert_eq!(ask(&mut login, Authentication::Ok), Err(skipped.clone()));

    let (mut login, _) = scram_begun();
    assert_eq!(ask(&mut login, Authentication::Ok), Err(skipped));
}

#[test]
fn a_challenge_must_be_meant_for_us_and_cheap() {
    let (_, server) = scram_begun();
    let others = server.server_first;
    for change in [
        |_: String| String::new(),
        |own: String| own.replace("i=4096", "i=2000000000"),
        |own: String| own.replace("server", &"x".repeat(250)),
        |own: String| own.replace("server", &"x".repeat(2500)),
        |own: String| own.replace("server", ""),
        |own: String| own.replace("s=", "s=!"),
        |own: String| own + ",x",
    ] {
        let (mut login, server) = scram_begun();
        let challenge = change(server.server_first);
        let result = ask(
            &mut login,
            Authentication::SaslContinue(challenge.as_bytes()),
        );
        assert!(matches!(result, Err(LoginError::Scram(_))), "{challenge}");
    }
    let (mut login, _) = scram_begun();
    let result = ask(&mut login, Authentication::SaslContinue(others.as_bytes()));
    assert!(matches!(result, Err(LoginError::Scram(_))), "another's");
}

#[test]
fn what_we_cannot_do_is_said() {
    let salt = *b"salt";
    for asked in [
        Authentication::CleartextPassword,
        Authentication::Md5Password { salt },
        Authentication::Sasl { mechanisms: BOTH },
    ] {
        assert_eq!(ask(&mut login(None), asked), Err(LoginError::NoPassword));
    }
    for mechanisms in [&[][..], &["SCRAM-SHA-1"], &["SCRAM-SHA-256-PLUS"]] {
        let result = ask(
            &mut login(Some(PASSWORD)),
            Authentication::Sasl { mechanisms },
        );
        assert_eq!(result, Err(LoginError::Mechanism));
    }
    let gssapi = login(Some(PASSWORD)).on_message(b'R', &7_u32.to_be_bytes());
    assert_eq!(gssapi, Err(LoginError::Method(7)));
}

#[test]
fn a_refusal_tells_its_sqlstate_if_it_has_one() {
    let starting = ErrorResponse::fatal(SqlState::CANNOT_CONNECT_NOW, "starting up").encode();
    let error = tell(&mut login(None), &starting).unwrap_err();
    assert_eq!(error.sqlstate(), Some(SqlState::CANNOT_CONNECT_NOW));
    assert_eq!(error.to_string(), "starting up (SQLSTATE 57P03)");

    let nameless = login(None).on_message(b'E', b"Mgo away\0\0").unwrap_err();
    assert_eq!(nameless.sqlstate(), None);
    assert_eq!(LoginError::NoPassword.sqlstate(), None);

    let mut accepted = login(None);
    ask(&mut accepted, Authentication::Ok).unwrap();
    let full = ErrorResponse::fatal(SqlState::TOO_MANY_CONNECTIONS, "full").encode();
    let error = tell(&mut accepted, &full).unwrap_err();
    assert_eq!(error.sqlstate(), Some(SqlState::TOO_MANY_CONNECTIONS));
}

#[test]
fn messages_out_of_order_end_the_login() {
    let unexpected = |tag: u8| Err(LoginError::Unexpected(char::from(tag)));
    for tag in *b"SKZTDCGHW1\0" {
        assert_eq!(login(None).on_message(tag, b"I"), unexpected(tag));
    }
    let mut twice = login(None);
    ask(&mut twice, Authentication::Ok).unwrap();
    assert_eq!(ask(&mut twice, Authentication::Ok), unexpected(b'R'));

    let mut again = login(Some(PASSWORD));
    answer(&mut again, Authentication::CleartextPassword);
    assert_eq!(
        ask(&mut again, Authentication::CleartextPassword),
        unexpected(b'R')
    );
    for body in [&b""[..], b"\0\0\0"] {
        let result = login(None).on_message(b'R', body);
        assert_eq!(result, Err(LoginError::Malformed("Authentication")));
    }
    let result = login(Some(PASSWORD)).on_message(b'R', b"\0\0\0\x05sal");
    assert_eq!(
        result,
        Err(LoginError::Malformed("AuthenticationMD5Password"))
    );
    for status in [TransactionStatus::InTransaction, TransactionStatus::Failed] {
        let mut odd = login(None);
        ask(&mut odd, Authentication::Ok).unwrap();
        let result = tell(&mut odd, &backend::ready_for_query(status));
        assert_eq!(result, Err(LoginError::Malformed("ReadyForQuery")));
    }
}

#[test]
fn a_cancel_key_that_is_none_is_not_kept() {
    let mut login = login(None);
    ask(&mut login, Authentication::Ok).unwrap();
    assert_eq!(login.on_message(b'K', b"\0\0\0\x07"), Ok(LoginStep::Wait));
    let Ok(LoginStep::Ready(logged_in)) = tell(&mut login, &ready()) else {
        panic!("not ready");
    };
    assert_eq!(logged_in.key, None);
}

#[test]
fn a_login_that_never_ends_is_ended() {
    for tag in *b"NSv" {
        let mut login = login(None);
        if tag == b'S' {
            ask(&mut login, Authentication::Ok).unwrap();
        }
        let before = u32::from(tag == b'S');
        for _ in before..MAX_LOGIN_MESSAGES {
            assert_eq!(login.on_message(tag, b""), Ok(LoginStep::Wait));
        }
        let last = login.on_message(tag, b"");
        assert_eq!(last, Err(LoginError::TooManyMessages));
    }
}
