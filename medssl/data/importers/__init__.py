"""Turn data in the formats of scanners, challenges and other tools into Decathlon folders."""
