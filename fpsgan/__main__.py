from fpsgan.cli import main

main()
