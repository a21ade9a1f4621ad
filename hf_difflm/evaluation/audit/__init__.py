"""Whether a number is an upper bound on the nll of something: the Kraft test, by enumeration of all short sequences."""
