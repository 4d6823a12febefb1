raise AssertionError("the program was run by a scan")
