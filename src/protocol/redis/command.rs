//! Commands of probes, as arrays of bulk strings.

/// A user of the access control list; without a name, the password of `requirepass`.
#[derive(Clone, Copy)]
pub struct Login<'a> {
    pub user: Option<&'a str>,
    pub password: &'a str,
}

/// Any command. Arguments may hold any bytes.
pub fn command(parts: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// The answer is `+PONG`, or an error that says why not (LOADING, MASTERDOWN, NOAUTH).
pub fn ping() -> Vec<u8> {
    command(&["PING"])
}

/// AUTH: for every server since 1.0; with a user since 6.0.
pub fn auth(login: Login<'_>) -> Vec<u8> {
    match login.user {
        Some(user) => command(&["AUTH", user, login.password]),
        None => command(&["AUTH", login.password]),
    }
}

/// HELLO (since 6.0): chooses RESP `version`, logs in and names the connection in one step.
pub fn hello(version: u8, login: Option<Login<'_>>, client_name: &str) -> Vec<u8> {
    let version = version.to_string();
    let mut parts = vec!["HELLO", &version];
    if let Some(login) = login {
        parts.extend(["AUTH", login.user.unwrap_or("default"), login.password]);
    }
    parts.extend(["SETNAME", client_name]);
    command(&parts)
}

/// Read with [`super::replication::Role::parse`].
pub fn role() -> Vec<u8> {
    command(&["ROLE"])
}

/// Read with [`super::replication::Replication::parse`]. `section`: `replication`, `persistence`, ….
pub fn info(section: &str) -> Vec<u8> {
    command(&["INFO", section])
}

/// Read with [`super::sentinel::primary_address`].
pub fn sentinel_primary_address(name: &str) -> Vec<u8> {
    command(&["SENTINEL", "get-master-addr-by-name", name])
}

/// Read with [`super::sentinel::Watched::parse`].
pub fn sentinel_primary(name: &str) -> Vec<u8> {
    command(&["SENTINEL", "master", name])
}

/// Read with [`super::sentinel::peers`].
pub fn sentinel_peers(name: &str) -> Vec<u8> {
    command(&["SENTINEL", "sentinels", name])
}

/// Read with [`super::sentinel::Quorum::parse`].
pub fn sentinel_quorum(name: &str) -> Vec<u8> {
    command(&["SENTINEL", "ckquorum", name])
}
