//! The MQTT link: transport, reconnect, byte counting.
