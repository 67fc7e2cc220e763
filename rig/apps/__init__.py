"""The web apps that the rig serves: files that uWSGI loads by path, in an environment without us."""
