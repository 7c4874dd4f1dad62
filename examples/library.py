"""genkit as a library: a story and two pictures, without the shell."""

from PIL import Image

from genkit import load
from genkit.text.config import GenerationConfig

story = load("story")
knobs = GenerationConfig(max_new_tokens=60, temperature=0.7, stop=("\n\n",))
print(story.complete("Once upon a time", knobs, seed=1)[0])

for event in load("kittens").draw(seeds=[0, 1]):
    Image.fromarray(event.pixels).save(f"kitten-{event.seed}.png")
