//! The network between the proxy and its peers: faults N1 to N11.
