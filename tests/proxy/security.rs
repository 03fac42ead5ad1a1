//! Attacks: the security classes that layer 4 can meet.
