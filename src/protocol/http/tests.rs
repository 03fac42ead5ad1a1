//! What the rules of a request and its response promise.
