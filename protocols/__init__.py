"""What the cabinet and the centre mean to each other, and bytes to meaning and back. No I/O."""
