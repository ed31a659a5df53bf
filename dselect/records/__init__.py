"""Records: lines of JSON, in and out, byte for byte."""
