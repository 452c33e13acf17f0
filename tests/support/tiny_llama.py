"""A Llama small enough to be made on the spot, for tests and benchmarks of whatever serves models.

    python -m tests.support.tiny_llama DIRECTORY [LAYERS]      (in .venv-vllm: needs torch and transformers)

Random weights say nothing, but what they say must be good to test with: never the same token over and over, of one
known length, each token depending on everything before it, and with characters that take several tokens. So some of
the network's dimensions are set by hand, the others are random (seeded):

  - The tokenizer is a byte-level BPE trained on the text of this repository's licence. Tokens that are no text by
    themselves (single bytes of longer characters) are never chosen, but where a character is spelt out, see below.
  - Every token has a phase, 0 to ANSWER_TOKENS - 1, written into its embedding as two digits, in dimensions that no
    layer writes to. The output's weights ask for the token of the next phase, so that the phases follow each other;
    within a phase about ten tokens compete, by the random rest, which every earlier token has a part in.
  - The chat template ends in the token of the phase before the first. After the last comes the end of the sequence:
    an answer has ANSWER_TOKENS tokens and one that ends it.
  - At phase SPELT_AT stands 🦁 in four tokens of one byte each.

Greedy by default: the model's generation config says nothing else.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any, Final

BASE: Final = 16
ANSWER_TOKENS: Final = BASE * 12
CONTEXT_TOKENS: Final = 2_048
VOCABULARY: Final = 2_048
SPELT: Final = "🦁".encode()
SPELT_AT: Final = 5
_HIDDEN: Final = 128
LAYERS: Final = 4
_READ: Final = 60.0  # so large that the phase always wins over the random rest
_WRITE: Final = 40.0
_ROOT: Final = Path(__file__).parents[2]
_BEGIN, _END, _OPEN = "<|begin|>", "<|end|>", "<|answer|>"
_TEMPLATE: Final = (
    _BEGIN + "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}" + _OPEN + "{% endif %}"
)


def make(directory: Path, *, layers: int = LAYERS, seed: int = 7) -> Path:
    """Write the model: weights in float32, configuration, tokenizer. Returns the directory."""
    import torch  # these take seconds to import, and only this needs them
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=_HIDDEN,
        intermediate_size=2 * _HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).to(torch.float32)
    with torch.no_grad():
        _set_phases(model, tokenizer, torch)
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[_BEGIN, _END, _OPEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train([str(_ROOT / "LICENSE")], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=_BEGIN, eos_token=_END)
    fast.add_special_tokens({"additional_special_tokens": [_OPEN]})
    fast.chat_template = _TEMPLATE
    return fast


def _set_phases(model: Any, tokenizer: Any, torch: Any) -> None:
    """Give every token its phase, and every phase its tokens."""
    digits = 2 * BASE  # dimensions: the low digit of the phase, then the high one
    reading, writing = model.model.embed_tokens.weight, model.lm_head.weight
    reading.normal_()
    reading[:, :digits] = 0
    writing[:, :digits] = 0
    for layer in model.model.layers:  # nobody else writes to the digits
        layer.self_attn.o_proj.weight[:digits] = 0
        layer.mlp.down_proj.weight[:digits] = 0
    phases = _phases(tokenizer)
    for token_id in range(len(tokenizer)):
        phase = phases.get(token_id)
        if phase is None:  # never chosen: among thousands some other is above 0
            writing[token_id] = 0
            continue
        high, low = divmod(phase, BASE)
        reading[token_id, low] = reading[token_id, BASE + high] = _READ
        before_high, before_low = divmod(phase - 1, BASE)
        if phase == 0:
            before_high, before_low = BASE - 1, BASE - 1
        writing[token_id, before_low] = writing[token_id, BASE + before_high] = _WRITE
    opening = tokenizer.convert_tokens_to_ids(_OPEN)
    reading[opening, BASE - 1] = reading[opening, 2 * BASE - 1] = _READ


def _phases(tokenizer: Any) -> dict[int, int]:
    """Return which token may stand where in an answer."""
    alphabet = tokenizer.get_vocab()
    spelt = {SPELT_AT + at: alphabet[_sign_of_byte(byte)] for at, byte in enumerate(SPELT)}
    free = [phase for phase in range(ANSWER_TOKENS) if phase not in spelt]
    words = [
        token_id
        for token_id in range(len(tokenizer))
        if token_id not in tokenizer.all_special_ids
        and tokenizer.decode([token_id]).strip(" ").isprintable()
        and "\ufffd" not in tokenizer.decode([token_id])
    ]
    # By chance this order leaves it open whether output of `{"answer"…` or `{"tool_calls"…` begins with the one or the
    # other, so that models that may call tools do both.
    random.Random(10).shuffle(words)
    found = {token_id: free[at % len(free)] for at, token_id in enumerate(words)}
    found |= {token_id: phase for phase, token_id in spelt.items()}
    found[tokenizer.eos_token_id] = ANSWER_TOKENS
    return found


def _sign_of_byte(byte: int) -> str:
    """How a byte-level BPE writes a byte: itself where it is visible, else a sign from U+0100 on, in order."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if byte in visible:
        return chr(byte)
    return chr(0x100 + sum(other not in visible for other in range(byte)))


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), layers=int(sys.argv[2]) if len(sys.argv) > 2 else LAYERS))
