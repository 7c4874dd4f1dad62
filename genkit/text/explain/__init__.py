"""What goes on inside a text model: probabilities, attention, and what an answer rests on."""
