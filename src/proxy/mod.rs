//! The data plane: moves bytes; decides nothing that outlives a session.
