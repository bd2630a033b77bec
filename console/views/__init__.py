"""The console's pages: they check shapes, call one service or selector, and translate its answer."""
