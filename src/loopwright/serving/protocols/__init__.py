"""The wires that workers speak, a file each, and the door that they share."""
