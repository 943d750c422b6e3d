"""What Bluetooth sensors say in their adverts: BTHome v2 and Eddystone, and the profiles of devices."""
