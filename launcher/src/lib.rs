//! The launcher: command line to job to machine to text.
