//! Durable pieces on redb and slot files.
