"""The dataset doctor: reads every image and label as training does, and says what is wrong with them."""
