"""What a program is on a device: the forms that its operations take there, its gradients' errors, speed and memory."""
