"""What `openai://` is made of: the API's bodies, its event streams, one HTTP upstream, going on by token ids."""
