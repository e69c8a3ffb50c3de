from autonat.cli import main

main()
