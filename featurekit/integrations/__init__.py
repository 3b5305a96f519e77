"""Where featurekit meets other libraries, one module each; each names the extra that it needs."""
