"""Where text comes from: corpora that are built in, files, the Hub, and sources made up for tests of theory."""
