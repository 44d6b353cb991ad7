"""Foreign systems, a file each: what they are sent, by their wire and in their form. They know no rule of ours."""
