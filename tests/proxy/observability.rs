//! Metrics, the admin API and logs under load: faults O1 to O4.
