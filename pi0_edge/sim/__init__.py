"""The simulated ALOHA: environment, scripted expert and demonstration recorder (extra ``sim``)."""
