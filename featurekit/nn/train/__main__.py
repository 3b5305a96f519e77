"""`python -m featurekit.nn.train`."""

from featurekit.nn.train.command import main

if __name__ == "__main__":
    main()
