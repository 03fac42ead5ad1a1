//! Real servers behind the proxy: PostgreSQL, Redis, nginx, HAProxy.
