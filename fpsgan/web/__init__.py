"""`fpsgan web`: the jobs of the command line on a page: queue, preview, before and after. Needs the extra [web]."""
