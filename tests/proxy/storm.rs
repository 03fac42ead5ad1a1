//! A hundred reloads a second under load.
