"""featurekit inside of other libraries, each behind the extra of its name."""
