"""Which concepts settle a setting and which ones are measured: fixed before anything was tuned, and disjoint."""

TUNING_OBJECTS = ("cat", "car", "rose", "strawberry", "plane")
TUNING_LOOKS = ("pixel art",)

MEASURED_OBJECTS = ("dog", "lion", "owl", "shark", "butterfly", "apple", "pizza", "train", "guitar", "house")
MEASURED_LOOKS = ("ink sketch", "blueprint", "sepia")
