"""What a policy means: pure functions that the cabinet decides with and the centre previews with."""
