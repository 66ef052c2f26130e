"""The contract between trilun's nodes and their clients: messages, topics, verbs and codes."""
